"""What came of the slates: clicks by day, and whether they are as many as the scores promise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import poisson
from sklearn.linear_model import LogisticRegression

from pipelines.monitor.config import MonitorConfig
from pipelines.monitor.findings import Finding
from pipelines.monitor.later_events import LaterEvent
from pipelines.monitor.logged_requests import LoggedRequests
from pipelines.ope.rewards import joined
from pipelines.ope.shown_slates import padded

# B requests  k places of a slate
SECONDS_PER_HOUR = 3_600
LEAST_CLICKS = 30
"""Before the window, from which the promise of a score is learned; with fewer nothing is said."""
CHANCE = 1e-3


@dataclass(frozen=True)
class Outcomes:
    """Of requests whose events are known to the end of `click_hours`."""

    reward_Bk: np.ndarray
    """1 where the user had an event with the item in time; nan where there is no item, or it is too early to say."""
    expected_Bk: np.ndarray | None
    """What the scores promise, learned from the requests before the window; None if they have too few clicks."""
    window_B: np.ndarray
    """Whether a request is judged: the last `window_hours` of those whose events are known."""

    @property
    def is_known_B(self) -> np.ndarray:
        """Whether it can be said what came of the slate."""
        return ~np.isnan(self.reward_Bk).all(1)


def outcomes(requests: LoggedRequests, events: Sequence[LaterEvent], end: float, config: MonitorConfig) -> Outcomes:
    """Join slates with the events after them.

    Args:
        requests: the whole log, to the end of the window.
        end: Unix seconds at which the window ends.
    """
    reward_Bk, _ = joined(
        requests,
        ((event.user_id, event.item_id, event.timestamp) for event in events),
        config.click_hours * SECONDS_PER_HOUR,
    )
    score_Bk = padded(requests.slate_scores, math.nan)
    last = max((event.timestamp for event in events), default=-math.inf) - config.click_hours * SECONDS_PER_HOUR
    known_to = min(end, last + 1)
    reward_Bk = np.where(np.isnan(score_Bk) | (requests.received_B >= known_to)[:, None], np.nan, reward_Bk)
    window_B = (known_to - config.window_hours * SECONDS_PER_HOUR <= requests.received_B) & (
        requests.received_B < known_to
    )
    return Outcomes(reward_Bk, _expected(reward_Bk, score_Bk, ~window_B), window_B)


def outcome_findings(found: Outcomes, config: MonitorConfig) -> Iterator[Finding]:
    """Clicks of the window against those before, and against what the scores promise."""
    before, now = (found.reward_Bk[rows] for rows in (~found.window_B, found.window_B))
    places = [int((~np.isnan(side)).sum()) for side in (before, now)]
    clicks = [float(np.nansum(side)) for side in (before, now)]
    if min(places) < config.min_requests or clicks[0] < LEAST_CLICKS:
        return
    promised = clicks[0] / places[0] * places[1]
    yield from _off("ctr", clicks[1], promised, config.ctr_ratio, "clicks; at the rate of the days before")
    if found.expected_Bk is not None:
        expected = float(np.nansum(np.where(np.isnan(now), np.nan, found.expected_Bk[found.window_B])))
        yield from _off("calibration", clicks[1], expected, config.calibration_ratio, "clicks; the scores promise")


def _off(check, clicks: float, promised: float, limit: float, text: str) -> Iterator[Finding]:
    """A finding if there are that many more or fewer clicks than promised, and not by chance."""
    ratio = max((clicks + 0.5) / (promised + 0.5), (promised + 0.5) / (clicks + 0.5))
    chance = 2 * min(poisson.cdf(clicks, promised), poisson.sf(clicks - 1, promised))
    if ratio > limit and chance < CHANCE:
        yield Finding(check, "", ratio, limit, f"{clicks:.0f} {text} {promised:.0f}")


def _expected(reward_Bk: np.ndarray, score_Bk: np.ndarray, before_B: np.ndarray) -> np.ndarray | None:
    """[B, k] click probability by score and place, learned from the rows before the window. Platt scaling."""
    place_Bk = np.broadcast_to(np.log2(np.arange(score_Bk.shape[1]) + 1.0), score_Bk.shape)
    is_usable = np.isfinite(score_Bk)
    learned = ~np.isnan(reward_Bk) & is_usable & before_B[:, None]
    clicks = reward_Bk[learned].sum()
    if clicks < LEAST_CLICKS or clicks == learned.sum():
        return None
    inputs = np.stack([score_Bk, place_Bk], axis=-1)
    model = LogisticRegression(C=1e3).fit(inputs[learned], reward_Bk[learned])
    expected_Bk = np.full(score_Bk.shape, np.nan)
    expected_Bk[is_usable] = model.predict_proba(inputs[is_usable])[:, 1]
    return expected_Bk
