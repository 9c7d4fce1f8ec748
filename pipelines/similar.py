"""Which items are like an item, by the vectors that the candidate model learned."""

from __future__ import annotations

import difflib
import json
from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from features.artifact import Artifact
from features.errors import CascadeError
from features.list_column import matrix_of
from pipelines.embeddings import num_taste_coordinates

# Q asked items  I items  D taste coordinates
_NUM_NAMED = 3
_NUM_COMPARED = 500
"""Ids on either side of an unknown one that it is compared with: with all of a million it would take a minute."""


class SimilarError(CascadeError, ValueError):
    """The question cannot be answered: an item the model does not have, or no place for an answer."""


@dataclass(frozen=True)
class Neighbours:
    """The items nearest to one, best first."""

    item_id: str
    items: list[tuple[str, float]]
    """Ids with cosines in -1..1."""


def similar_items(retrieval: Artifact, item_ids: Sequence[str], k: int) -> list[Neighbours]:
    """The k items with the highest cosine to each, never the item itself; fewer if the catalogue has no more.

    The coordinates about popularity are left out: what is sold as often is not therefore alike.

    Raises: SimilarError if k is not positive, or naming ids that are close to one the model does not have.
    """
    if k < 1:
        raise SimilarError(f"--k must be at least 1, got {k}")
    table = pq.read_table(retrieval.file("item_vectors.parquet"), columns=["raw_id", "vector"])
    raw_ids = table["raw_id"]
    rows = [_row_of(raw_ids, item_id) for item_id in item_ids]
    unit_ID = _unit(matrix_of(table["vector"])[:, : num_taste_coordinates(retrieval)])
    found = []
    for item_id, row in zip(item_ids, rows, strict=True):
        cosine_I = unit_ID @ unit_ID[row]
        cosine_I[row] = -np.inf
        best = nearest(cosine_I, min(k, len(cosine_I) - 1))
        items = [(raw_ids[int(one)].as_py(), float(cosine_I[one])) for one in best]
        found.append(Neighbours(item_id, items))
    return found


def nearest(score_I: np.ndarray, k: int) -> np.ndarray:
    """Rows of the k highest scores, highest first, equal ones by row."""
    if k < 1:
        return np.empty(0, dtype=np.int64)
    at_least = -np.partition(-score_I, k - 1)[k - 1]
    kept = np.flatnonzero(score_I >= at_least)
    return kept[np.argsort(-score_I[kept], kind="stable")][:k]


def print_neighbours(found: Sequence[Neighbours], title_of: Mapping[str, str]) -> None:
    """A table an item."""
    console = Console()
    for one in found:
        heading = " ".join(filter(None, ["like item", one.item_id, title_of.get(one.item_id, "")]))
        table = Table("rank", "item", "title", "cosine", title=heading, title_justify="left")
        for rank, (item_id, cosine) in enumerate(one.items, start=1):
            table.add_row(str(rank), item_id, title_of.get(item_id, ""), f"{cosine:.3f}")
        console.print(table)


def print_neighbours_json(found: Sequence[Neighbours]) -> None:
    """A JSON object an item, one a line."""
    for one in found:
        items = [{"item_id": item_id, "cosine": cosine} for item_id, cosine in one.items]
        print(json.dumps({"item_id": one.item_id, "items": items}, ensure_ascii=False))


def _unit(vector_ID: np.ndarray) -> np.ndarray:
    """Rows of length one; a row of zeros stays, and is like nothing."""
    length_I1 = np.linalg.norm(vector_ID, axis=1, keepdims=True)
    return vector_ID / np.where(length_I1 > 0, length_I1, 1)


def _row_of(raw_ids, item_id: str) -> int:
    row = pc.index(raw_ids, item_id).as_py()
    if row < 0:
        ids = raw_ids.to_pylist()
        close = _close(item_id, ids)
        meant = f"did you mean {' or '.join(close)}?" if close else f"ids look like {', '.join(ids[:_NUM_NAMED])}"
        raise SimilarError(f"the model has no item {item_id!r}; {meant}")
    return row


def _close(item_id: str, ids: list[str]) -> list[str]:
    """Ids that look like one, closest first: neighbours in the alphabet, and those that contain it."""
    ids = sorted(ids)
    place = bisect(ids, item_id)
    compared = set(ids[max(place - _NUM_COMPARED, 0) : place + _NUM_COMPARED])
    compared.update([one for one in ids if item_id and item_id in one][:_NUM_COMPARED])
    return difflib.get_close_matches(item_id, sorted(compared), _NUM_NAMED)
