"""Requests as the log has them, as arrays: what was known of users, what was proposed, removed, scored and shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.request_log_table import RequestLogError, unix_seconds

# B logged requests of a user  L elements of a list feature
COLUMNS = (
    *("received", "as_of", "arm", "release", "user_id", "source", "features", "removed", "proposals"),
    *("num_failed_sources", "candidate_scores", "slate_ids", "slate_scores"),
)
NOBODY_KNOWN = frozenset(("fallback", "degraded", "cached"))
"""Sources of replies to users of whom nothing was read: their features say nothing."""


@dataclass(frozen=True, eq=False)
class LoggedRequests:
    """Rows of a request log, in the order in which the requests came."""

    received_B: np.ndarray
    """Unix seconds."""
    as_of_B: np.ndarray
    """Unix seconds up to which the release knows the users, live events apart."""
    user_id: list[str]
    source: list[str]
    """What was served: personal, cold, fallback, ..."""
    features: Mapping[str, np.ndarray]
    """Feature -> [B] or [B, L] as the models read it; nan where the run did not come to it."""
    removed: Mapping[str, np.ndarray]
    """Filter -> [B] items kept from the user."""
    num_proposed: Mapping[str, np.ndarray]
    """Candidate source -> [B] items that it proposed; nan where the run did not come to it."""
    proposed_share: Mapping[str, np.ndarray]
    """Candidate source -> [B] share of the slate that it had proposed; nan where the run did not come to it."""
    mean_score_B: np.ndarray
    """The ranker's score, mean over the candidates; nan without any."""
    top_score_B: np.ndarray
    """The same of the best candidate."""
    slate_ids: list[list[str]]
    slate_scores: list[list[float]]

    def __len__(self) -> int:
        return len(self.user_id)

    @property
    def is_known_B(self) -> np.ndarray:
        """Whether something was read of the user."""
        return np.array([source not in NOBODY_KNOWN for source in self.source], bool)

    @classmethod
    def of(cls, table: pa.Table) -> LoggedRequests:
        """From the columns COLUMNS of one release's log, in the order of `received`."""
        table = table.combine_chunks()
        num_proposed, proposed_share = _proposals(table["proposals"], table["slate_ids"])
        mean_score_B, top_score_B = _mean_and_top(table["candidate_scores"])
        return cls(
            received_B=unix_seconds(table["received"]),
            as_of_B=unix_seconds(table["as_of"]),
            user_id=table["user_id"].to_pylist(),
            source=table["source"].to_pylist(),
            features={name: _squeezed(values) for name, values in _map_columns(table["features"]).items()},
            removed=_map_columns(table["removed"]),
            num_proposed=num_proposed,
            proposed_share=proposed_share,
            mean_score_B=mean_score_B,
            top_score_B=top_score_B,
            slate_ids=table["slate_ids"].to_pylist(),
            slate_scores=table["slate_scores"].to_pylist(),
        )

    def taken(self, rows: np.ndarray) -> LoggedRequests:
        """Some of the rows."""
        some = rows.tolist()

        def part(value: Any) -> Any:
            if isinstance(value, np.ndarray):
                return value[rows]
            if isinstance(value, Mapping):
                return {name: part(one) for name, one in value.items()}
            return [value[row] for row in some]

        return LoggedRequests(**{name: part(value) for name, value in vars(self).items()})


def between(table: pa.Table, begin: float, end: float) -> pa.Table:
    """The rows that were received in [begin, end), Unix seconds."""
    received_B = unix_seconds(table["received"])
    return table.filter(pa.array((begin <= received_B) & (received_B < end)))


def of_release(table: pa.Table, release: str) -> pa.Table:
    """The rows of one release.

    Raises: RequestLogError if there are none, naming those that there are.
    """
    releases = table["release"].to_pylist()
    kept = table.filter(pa.array([one == release for one in releases], pa.bool_()))
    if not len(kept):
        there = ", ".join(f"{one} ({releases.count(one):,} rows)" for one in dict.fromkeys(releases))
        raise RequestLogError(
            f"the log holds no request that the run's release {release} answered, but those of {there}; name the run "
            "that was live, or run `cascade monitor` before the next deployment"
        )
    return kept


def _map_columns(column: pa.ChunkedArray) -> dict[str, np.ndarray]:
    """Name -> [B] or [B, L] float64 of a map column of numbers or lists of them; nan where a row is null or shorter."""
    array = _one_chunk(column)
    offsets = array.offsets.to_numpy()  # pyright: ignore[reportAttributeAccessIssue]
    row = np.repeat(np.arange(len(array)), np.diff(offsets))
    keys, items = array.keys.dictionary_encode(), array.items  # pyright: ignore[reportAttributeAccessIssue]
    code = keys.indices.to_numpy()
    arrays = {}
    for number, name in enumerate(keys.dictionary.to_pylist()):
        place = np.flatnonzero(code == number)
        values = items.take(pa.array(place))
        is_list = pa.types.is_list(values.type)
        widths = values.value_lengths().to_numpy() if is_list else np.ones(len(values), np.int64)
        rows_XL = np.full((len(array), int(widths.max(initial=1))), np.nan)
        flat = (values.flatten() if is_list else values).to_numpy().astype(np.float64)
        at = np.arange(len(flat)) - np.repeat(np.cumsum(widths) - widths, widths)
        rows_XL[np.repeat(row[place], widths), at] = flat
        arrays[name] = rows_XL if is_list else rows_XL[:, 0]
    return arrays


def _squeezed(values_BL: np.ndarray) -> np.ndarray:
    return values_BL[:, 0] if values_BL.ndim == 2 and values_BL.shape[1] == 1 else values_BL


def _proposals(column: pa.ChunkedArray, slates: pa.ChunkedArray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Source -> [B] items proposed, and source -> [B] share of the slate that was among them."""
    proposals, slate = _one_chunk(column), _one_chunk(slates)
    row_P = _row_of_each(proposals)
    proposed = proposals.flatten()
    names, ids = proposed.field("source").dictionary_encode(), proposed.field("item_ids")
    source_P, size_P = names.indices.to_numpy(), ids.value_lengths().to_numpy()
    both = pa.chunked_array([slate.flatten(), ids.flatten()]).dictionary_encode().unify_dictionaries()
    codes = np.concatenate([chunk.indices.to_numpy() for chunk in both.chunks]).astype(np.int64)
    num_items, num_slots = int(codes.max(initial=0)) + 1, len(slate.flatten())
    slot_row = _row_of_each(slate)
    slot_key = slot_row * num_items + codes[:num_slots]
    proposed_key = np.repeat(row_P, size_P) * num_items + codes[num_slots:]
    proposed_source = np.repeat(source_P, size_P)
    num_slots_B = np.bincount(slot_row, minlength=len(column))
    num_proposed, share = {}, {}
    for number, name in enumerate(names.dictionary.to_pylist()):
        of_source = source_P == number
        num_proposed[name] = np.full(len(column), np.nan)
        num_proposed[name][row_P[of_source]] = size_P[of_source]
        hit = np.isin(slot_key, proposed_key[proposed_source == number])
        num_hits_B = np.bincount(slot_row[hit], minlength=len(column))
        came_to_it_B = ~np.isnan(num_proposed[name]) & (num_slots_B > 0)
        share[name] = np.where(came_to_it_B, num_hits_B / np.maximum(num_slots_B, 1), np.nan)
    return num_proposed, share


def _mean_and_top(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """[B] mean and maximum of lists of numbers; nan of an empty one."""
    lists = _one_chunk(column)
    row, value = _row_of_each(lists), lists.flatten().to_numpy().astype(np.float64)
    is_number = np.isfinite(value)
    row, value = row[is_number], value[is_number]
    count_B = np.bincount(row, minlength=len(column))
    top_B = np.full(len(column), -np.inf)
    np.maximum.at(top_B, row, value)
    sum_B = np.bincount(row, value, minlength=len(column))
    return np.where(count_B, sum_B / np.maximum(count_B, 1), np.nan), np.where(count_B, top_B, np.nan)


def _row_of_each(lists: pa.Array) -> np.ndarray:
    """Of each element of the flattened lists the row that it stands in."""
    return np.repeat(np.arange(len(lists)), lists.value_lengths().fill_null(0).to_numpy())


def _one_chunk(column: pa.ChunkedArray) -> Any:
    array = column.combine_chunks()
    return array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
