"""What is shown: how much of the catalogue, how concentrated, how novel, and how much of it again and again."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.monitor.config import MonitorConfig
from pipelines.monitor.findings import Finding
from pipelines.monitor.logged_requests import LoggedRequests
from pipelines.monitor.reference import Reference

SECONDS_PER_DAY = 86_400


@dataclass(frozen=True)
class Exposure:
    """Of the slates of some requests."""

    num_slates: int
    num_items: int
    """Different items shown."""
    coverage: float
    """The same as a share of the catalogue."""
    gini: float
    """Of how often each item of the catalogue was shown: 0 all alike, 1 a single one."""
    top_item: str
    top_share: float
    """The most shown item's share of all places."""
    novelty: float
    """Mean of -log2 of the share of the reference's events that a shown item had: high for what few had."""
    own_variety: float
    """Different items over places, mean over the users: low where a user gets the same again and again."""
    repetition: float
    """Mean share of a slate that was in the user's slate before; nan if nobody came twice."""
    num_repeated: int
    """Slates that had one before."""


def exposure(requests: LoggedRequests, item_share: Mapping[str, float], num_catalogue: int) -> Exposure:
    """Args:
    requests: in the order of time.
    item_share: item -> its share of the reference's events.
    """
    shown = Counter(item for slate in requests.slate_ids for item in slate)
    total = sum(shown.values())
    count_I = np.sort(np.pad(np.array(list(shown.values()), np.float64), (max(num_catalogue - len(shown), 0), 0)))
    place_I = np.arange(1, len(count_I) + 1)
    gini = float((2 * place_I - len(count_I) - 1) @ count_I / (len(count_I) * total)) if total else math.nan
    rarest = min(item_share.values(), default=1.0) / 2
    novelty = sum(-math.log2(item_share.get(item, rarest)) * count for item, count in shown.items())
    item, count = shown.most_common(1)[0] if shown else ("", 0)
    overlap = repetition_of(requests)
    return Exposure(
        num_slates=len(requests),
        num_items=len(shown),
        coverage=len(shown) / max(num_catalogue, 1),
        gini=gini,
        top_item=item,
        top_share=count / max(total, 1),
        novelty=novelty / max(total, 1),
        own_variety=_own_variety(requests),
        repetition=float(np.mean(overlap)) if len(overlap) else math.nan,
        num_repeated=len(overlap),
    )


def repetition_of(requests: LoggedRequests) -> list[float]:
    """Of each slate whose user had one before: the share of it that was in that one."""
    before: dict[str, set[str]] = {}
    overlap = []
    for user, slate in zip(requests.user_id, requests.slate_ids, strict=True):
        if user in before and slate:
            overlap.append(len(before[user].intersection(slate)) / len(slate))
        before[user] = set(slate)
    return overlap


def by_day(requests: LoggedRequests) -> list[tuple[str, np.ndarray]]:
    """Each UTC day that has requests, with their rows."""
    day_B = requests.received_B // SECONDS_PER_DAY
    return [(str(np.datetime64(int(day), "D")), np.flatnonzero(day_B == day)) for day in np.unique(day_B)]


def exposure_findings(
    reference: Reference, earlier: Exposure | None, window: LoggedRequests, num_catalogue: int, config: MonitorConfig
) -> Iterator[Finding]:
    """What is beyond the thresholds, in as many slates of reference and window.

    Args:
        earlier: of the log before the window, for repetition; None if there is none.
    """
    size = min(len(reference.requests), len(window))
    rng = np.random.default_rng(size)
    old, new = (
        exposure(requests.taken(np.sort(rng.permutation(len(requests))[:size])), reference.item_share, num_catalogue)
        for requests in (reference.requests, window)
    )
    if old.num_items > config.coverage_ratio * new.num_items:
        yield Finding(
            "coverage",
            "",
            old.num_items / max(new.num_items, 1),
            config.coverage_ratio,
            f"{new.num_items:,} different items in {size:,} slates, {old.num_items:,} in as many of the reference",
        )
    share_before = _top_share_of(reference.requests.slate_ids, new.top_item)
    if new.top_share - share_before > config.shown_share:
        yield Finding(
            "shown_spike",
            new.top_item,
            new.top_share - share_before,
            config.shown_share,
            f"item {new.top_item} has {new.top_share:.1%} of all places, {share_before:.1%} in the reference",
        )
    now = exposure(window, reference.item_share, num_catalogue)
    if earlier and min(earlier.num_repeated, now.num_repeated) >= config.min_requests:
        growth = now.repetition - earlier.repetition
        if growth > config.repetition:
            yield Finding(
                "repetition",
                "",
                growth,
                config.repetition,
                f"{now.repetition:.1%} of a slate was in the user's slate before, {earlier.repetition:.1%} earlier",
            )


def _top_share_of(slates: Sequence[Sequence[str]], item: str) -> float:
    total = sum(map(len, slates))
    return sum(item in slate for slate in slates) / max(total, 1)


def _own_variety(requests: LoggedRequests) -> float:
    items: dict[str, set[str]] = {}
    places: Counter[str] = Counter()
    for user, slate in zip(requests.user_id, requests.slate_ids, strict=True):
        items.setdefault(user, set()).update(slate)
        places[user] += len(slate)
    shares = [len(items[user]) / count for user, count in places.items() if count]
    return float(np.mean(shares)) if shares else math.nan
