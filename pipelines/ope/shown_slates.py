"""What the request log says was shown: slates with the chance of each place, ready for estimates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.request_log_table import RequestLogError, request_log_table, unix_seconds

# B logged requests of a user  k places of a slate
_COLUMNS = ("request_id", "received", "as_of", "arm", "user_id", "k", "timestamp", "exclude", "allow")
_SLATES = ("source", "candidate_ids", "slate_ids", "slate_propensities")


@dataclass(frozen=True, eq=False)
class ShownSlates:
    """Rows of the request log in the order in which the requests came."""

    request_id: list[str]
    received_B: np.ndarray
    """Unix seconds."""
    as_of_B: np.ndarray
    """Unix seconds up to which the release knew the users."""
    timestamp_B: np.ndarray
    """Unix seconds of the moment that was asked for."""
    arm: list[str | None]
    user_id: list[str]
    k_B: np.ndarray
    exclude: list[list[str]]
    allow: list[list[str] | None]
    candidate_ids: list[list[str] | None]
    slate_ids: list[list[str]]
    propensities: list[list[float]]

    def __len__(self) -> int:
        return len(self.user_id)

    @property
    def group_B(self) -> np.ndarray:
        """0..U - 1: whose request it was."""
        return np.unique(self.user_id, return_inverse=True)[1]

    def propensity_Bk(self) -> np.ndarray:
        """[B, k] chance of each place given those above it; 1 pads."""
        return padded(self.propensities, 1.0)

    def taken(self, rows: np.ndarray) -> ShownSlates:
        """Some of the rows."""
        some = rows.tolist()
        values: dict[str, Any] = {
            name: value[rows] if isinstance(value, np.ndarray) else [value[row] for row in some]
            for name, value in vars(self).items()
        }
        return ShownSlates(**values)


def read_shown_slates(folder: Path) -> ShownSlates:
    """The log in a folder, without what only a shadow answered.

    Raises: RequestLogError if there is none, it is of another version, or it is empty.
    """
    table = request_log_table(folder, [*_COLUMNS, *_SLATES])
    seconds = {name: unix_seconds(table[name]) for name in ("received", "as_of", "timestamp")}
    lists = {name: table[name].to_pylist() for name in ("request_id", "arm", "user_id", "exclude", "allow", *_SLATES)}
    return ShownSlates(
        request_id=lists["request_id"],
        received_B=seconds["received"],
        as_of_B=seconds["as_of"],
        timestamp_B=seconds["timestamp"],
        arm=lists["arm"],
        user_id=lists["user_id"],
        k_B=table["k"].to_numpy(),
        exclude=[one or [] for one in lists["exclude"]],
        allow=lists["allow"],
        candidate_ids=lists["candidate_ids"],
        slate_ids=lists["slate_ids"],
        propensities=lists["slate_propensities"],
    )


def usable_rows(shown: ShownSlates) -> tuple[np.ndarray, dict[str, int]]:
    """The slates that chance decided, and how many others there are, for which reason.

    A slate is left out by what was known before it was drawn, so the others stay a fair sample of requests like them.

    Raises: RequestLogError if none is left, with the reason that most have.
    """
    reasons = [*map(_unusable, shown.slate_ids, shown.propensities, shown.candidate_ids, shown.k_B.tolist())]
    rows = np.array([row for row, reason in enumerate(reasons) if reason is None], np.int64)
    left_out = {reason: reasons.count(reason) for reason in _REASONS if reason in reasons}
    if not len(rows):
        most = max(left_out, key=lambda reason: left_out[reason])
        raise RequestLogError(
            f"none of the {len(shown):,} logged slates can be used: {left_out[most]:,} {most}; {_REASONS[most]}"
        )
    return rows, left_out


_NO_CHANCE, _NO_CANDIDATES = "have no randomness (propensity 1)", "have no candidates"
_SHORT = "have fewer than k items"
_REASONS = {
    _NO_CHANCE: "what was never shown cannot be judged: serve with serving.ordering.temperature above 0, or send it "
    "with some of the requests",
    _NO_CANDIDATES: "the log must say what could have been shown, and cached slates and slates of a pipeline that "
    "failed have no candidates",
    _SHORT: "what another policy shows below them was never seen: ask for a smaller k",
}
"""Why a slate is left out, and what to do if all are."""


def _unusable(slate: list[str], propensities: list[float], candidates: list[str] | None, k: int) -> str | None:
    if not candidates:
        return _NO_CANDIDATES
    if len(slate) < k:
        return _SHORT
    return _NO_CHANCE if propensities[0] == 1 and len(candidates) > 1 else None


def padded(rows: list[list[Any]], filler: float) -> np.ndarray:
    """[B, k] from lists of any length."""
    value_Bk = np.full((len(rows), max(map(len, rows), default=0)), filler)
    for row, values in enumerate(rows):
        value_Bk[row, : len(values)] = values
    return value_Bk


def chunks(size: int, length: int) -> Iterator[slice]:
    """Slices of at most `length`."""
    return (slice(start, min(start + length, size)) for start in range(0, size, length))
