"""Scores of the pairs of user and item in a Parquet file, in process: by the ranker as the server runs it.

Memory does not grow with the number of rows: they are dealt out to files by a hash of the user first, so that a user's
rows come together, and then scored file by file.

Legend: B users  K items of the longest list  N rows  G groups of rows that share user and moment
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from ensemble.config import ServingConfig
from ensemble.operators.score_candidates import NO_ITEM
from ensemble.pair_scorer import PairScorer
from ensemble.pipeline import Pipeline
from ensemble.request import MAX_ID_BYTES, MAX_TIMESTAMP
from features.errors import CascadeError
from pipelines.replaced_file import replaced

ROWS_PER_PART = 1_000_000
"""Rows that are sorted in memory, about."""
PAIRS_PER_CALL = 25_600
"""As many as 128 users with 200 candidates have."""
_KEYS = ("user_id", "item_id")
_TIME = "timestamp"
_ADDED = (("score", pa.float32()), ("rank", pa.int32()), ("source", pa.string()))


class PairFileError(CascadeError, ValueError):
    """A file does not hold pairs as it should."""


@dataclass
class Scored:
    """What a file of scores holds."""

    num_rows: int = 0
    num_groups: int = 0
    """Users, or moments of users."""
    num_unknown_items: int = 0
    """Rows whose item the catalogue does not have; they have no score."""
    sources: Counter[str] = field(default_factory=Counter)
    """Groups by where their scores come from."""

    def summary(self, seconds: float) -> str:
        """How many, how fast, where from, and how many have no score."""
        sources = ", ".join(f"{source} {count:,}" for source, count in sorted(self.sources.items()))
        unknown = f"; {self.num_unknown_items:,} rows name an item that the catalogue does not have: no score"
        speed = f"{self.num_rows / seconds:,.0f} rows/s"
        told = f"{self.num_rows:,} rows, {self.num_groups:,} lists in {seconds:.0f} s ({speed}); {sources}"
        return told + (unknown if self.num_unknown_items else "")


def write_scores(
    version_folder: Path, pairs: Path, out: Path, about: dict[str, str], config: ServingConfig | None = None
) -> Scored:
    """Score every pair of a file and write `out`, which appears when the last one is in it.

    Its columns are those of the pairs in their own types, and `score` (float32; null where the catalogue does not have
    the item), `rank` (1 is the user's best, ties by the catalogue's order; null where there is no score) and `source`
    ("personal" or "cold"; "fallback" for a user of whom nothing is known: the score is then the item's popularity, as
    in a reply). A user's rows stand together, best first; with a column of moments, each moment is a list of its own.
    The order of the users is the same on every run, and says nothing.

    Args:
        version_folder: the exported model, `<repository>/cascade/1`.
        pairs: Parquet with the columns user_id and item_id (text or whole numbers: ids as the log has them), and
            optionally timestamp (Unix seconds; without it all are scored as of when the features were made).
        about: what the file's metadata says under the key "cascade", as JSON.
        config: what the pipeline is told when it opens; the defaults if None.
    Raises: PairFileError naming file, column and row; PartDownError; TargetError. Nothing is
        written then, and an older file stands as it was.
    """
    schema = _checked_schema(pairs)
    scorer = PairScorer(Pipeline.load(version_folder, config))
    described = pa.schema([*schema, *(pa.field(*one) for one in _ADDED)], {"cascade": json.dumps(about)})
    scored = Scored()
    with (
        replaced(out) as building,
        pq.ParquetWriter(building, described, compression="zstd") as writer,
        tqdm(desc="rank", total=pq.read_metadata(pairs).num_rows, unit=" rows", disable=None, leave=False) as progress,
        TemporaryDirectory(prefix=".cascade-rank-", dir=out.parent) as scratch,
    ):
        for table in _by_user(pairs, schema, Path(scratch)):
            for part in _scored(table, scorer, scored):
                writer.write_table(part.cast(described))
                progress.update(len(part))
    return scored


def _checked_schema(pairs: Path) -> pa.Schema:
    """The columns that are read."""
    if not pairs.is_file():
        raise PairFileError(f"{pairs}: there is no such file; give a .parquet file with the columns user_id, item_id")
    try:
        schema = pq.read_schema(pairs)
    except pa.ArrowInvalid as error:
        raise PairFileError(f"{pairs}: cannot be read as Parquet: {error}") from error
    if missing := [name for name in _KEYS if name not in schema.names]:
        raise PairFileError(
            f"{pairs}: has no column {' and no column '.join(missing)}; its columns are {', '.join(schema.names)}"
        )
    wanted = [schema.field(name) for name in (*_KEYS, _TIME) if name in schema.names]
    for column in wanted:
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        if pa.types.is_integer(kind) or (is_text and column.name != _TIME):
            continue
        needed = "whole numbers: Unix seconds" if column.name == _TIME else "text or whole numbers"
        raise PairFileError(f"{pairs}: {column.name} must be {needed}, got {column.type}; convert the column")
    return pa.schema([pa.field(column.name, _plain(column.type)) for column in wanted])


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _by_user(pairs: Path, schema: pa.Schema, scratch: Path) -> Iterator[pa.Table]:
    """The rows in tables of about ROWS_PER_PART, all of a user's in the same."""
    num_parts = max(1, -(-pq.read_metadata(pairs).num_rows // ROWS_PER_PART))
    if num_parts == 1:
        yield pa.Table.from_batches(_checked_batches(pairs, schema), schema)
        return
    paths = [scratch / f"{part}.parquet" for part in range(num_parts)]
    writers = [pq.ParquetWriter(path, schema) for path in paths]
    for batch in _checked_batches(pairs, schema):
        # Of fixed keys, so that the same file is dealt out in the same way.
        part_N = pd.util.hash_array(batch["user_id"].cast(pa.string()).to_numpy(zero_copy_only=False)) % num_parts
        for part in np.unique(part_N).tolist():
            writers[part].write_batch(batch.filter(pa.array(part_N == part)))
    for writer in writers:
        writer.close()
    for path in paths:
        yield pq.read_table(path)
        path.unlink()


def _checked_batches(pairs: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    begin = 0
    with pq.ParquetFile(pairs) as file:
        for raw in file.iter_batches(ROWS_PER_PART // 8, columns=schema.names):
            batch = raw.select(schema.names).cast(schema)
            for name in schema.names:
                _check_column(pairs, name, batch[name], begin)
            yield batch
            begin += len(batch)


def _check_column(pairs: Path, name: str, values: pa.Array, begin: int) -> None:
    if name == _TIME:
        is_good, needed = _between(values, 0, MAX_TIMESTAMP), f"Unix seconds, 0..{MAX_TIMESTAMP}"
    elif pa.types.is_integer(values.type):
        is_good, needed = values.is_valid(), "an id"
    else:
        is_good, needed = _between(pc.binary_length(values), 1, MAX_ID_BYTES), f"an id of 1..{MAX_ID_BYTES} bytes"
    is_good = pc.fill_null(is_good, False)
    if not pc.all(is_good, min_count=0).as_py():
        row = pc.index(is_good, False).as_py()
        raise PairFileError(
            f"{pairs}: {name}, row {begin + row} (the first is 0) must be {needed}, got "
            f"{values[row].as_py()!r:.80}; correct it, or leave the row out"
        )


def _between(values: pa.Array, low: int, high: int) -> pa.Array:
    return pc.and_(pc.greater_equal(values, low), pc.less_equal(values, high))


def _scored(table: pa.Table, scorer: PairScorer, scored: Scored) -> Iterator[pa.Table]:
    """The rows with what was found of them, by user and rank."""
    if not len(table):
        return
    user_N = table["user_id"].cast(pa.string()).to_numpy()
    time_N = table[_TIME].to_numpy() if _TIME in table.column_names else np.full(len(table), -1)
    item_N = scorer.rows_of(table["item_id"].cast(pa.string()).to_numpy())
    code_N, _ = pd.factorize(user_N, sort=True)
    order_N = np.lexsort((time_N, code_N))
    is_first_N = np.append(True, (np.diff(code_N[order_N]) != 0) | (np.diff(time_N[order_N]) != 0))
    first_G = np.flatnonzero(is_first_N)
    length_G = np.diff(np.append(first_G, len(table)))
    for groups in _calls(length_G):
        rows = order_N[first_G[groups.start] : first_G[groups.start] + length_G[groups].sum()]
        first_B, length_B = first_G[groups] - first_G[groups.start], length_G[groups]
        users = user_N[rows[first_B]], time_N[rows[first_B]] if _TIME in table.column_names else None
        score_N, source_B = _scores(scorer, *users, item_N[rows], length_B)
        rank_order, rank_N = _ranked(score_N, item_N[rows], length_B)
        is_known_N = item_N[rows] != NO_ITEM
        scored.num_rows += len(rows)
        scored.num_groups += len(source_B)
        scored.num_unknown_items += int((~is_known_N).sum())
        scored.sources.update(source_B.tolist())
        added = [
            pa.array(score_N, mask=~is_known_N).take(pa.array(rank_order)),
            pa.array(rank_N, mask=~is_known_N[rank_order]),
            pa.array(np.repeat(source_B, length_B), pa.string()),
        ]
        part = table.take(pa.array(rows[rank_order]))
        for (name, _), values in zip(_ADDED, added, strict=True):
            part = part.append_column(name, values)
        yield part


def _calls(length_G: np.ndarray) -> Iterator[slice]:
    """Runs of groups that fit into one call, each at least one."""
    begin, longest = 0, 0
    for group, length in enumerate(length_G.tolist()):
        longest = max(longest, length)
        if group > begin and longest * (group + 1 - begin) > PAIRS_PER_CALL:
            yield slice(begin, group)
            begin, longest = group, length
    yield slice(begin, len(length_G))


def _scores(
    scorer: PairScorer, user_B: np.ndarray, time_B: np.ndarray | None, item_N: np.ndarray, length_B: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """[N] scores of the rows, a user's behind the other's, and [B] sources."""
    is_there_BK = np.arange(length_B.max()) < length_B[:, None]
    item_BK = np.full(is_there_BK.shape, NO_ITEM)
    item_BK[is_there_BK] = item_N
    parts = []
    for begin in range(0, item_BK.shape[1], PAIRS_PER_CALL):  # more than one only for a user with so many items
        score_BK, source_B = scorer.scores(user_B, item_BK[:, begin : begin + PAIRS_PER_CALL], time_B)
        parts.append(score_BK)
    return np.concatenate(parts, axis=1)[is_there_BK], source_B


def _ranked(score_N: np.ndarray, item_N: np.ndarray, length_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[N] rows by group and rank, and [N] those ranks from 1; rows without an item come last."""
    group_N = np.repeat(np.arange(len(length_B)), length_B)
    order = np.lexsort((item_N, -score_N, item_N == NO_ITEM, group_N))
    first_N = np.repeat(np.cumsum(length_B) - length_B, length_B)
    return order, (np.arange(len(order)) - first_N + 1).astype(np.int32)
