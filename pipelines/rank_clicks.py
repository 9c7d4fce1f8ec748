"""Click probabilities of the impressions in a file: through the run's own workflow and its exported model.

Legend: N rows
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from ensemble.onnx_model import OnnxModel
from features.artifact import Artifact
from features.errors import CascadeError
from features.impressions import WORKFLOW
from features.logs.criteo import CRITEO_COLUMNS
from features.logs.impression_values import to_category, to_integer
from features.logs.raw_table import PARQUET_EXTENSIONS, RawBlock, RawFile
from features.workflow import load_workflow, transform
from pipelines.replaced_file import replaced

SCHEMA = pa.schema(
    [
        pa.field("line", pa.int64(), nullable=False),
        pa.field("probability", pa.float32()),
        pa.field("problem", pa.string()),
    ]
)
"""A row of the input each, in its order: its line number from 1 (of a Parquet file the row number from 1), and either
the click probability or why there is none."""
NUM_NAMED = 5


class ImpressionFileError(CascadeError, ValueError):
    """A file does not hold impressions at all."""


@dataclass
class Foretold:
    """What a file of probabilities holds."""

    num_rows: int = 0
    num_bad: int = 0
    named: list[str] = field(default_factory=list)
    """The first rows that have no probability: file, line and reason."""

    def summary(self, seconds: float) -> str:
        return f"{self.num_rows:,} rows in {seconds:.0f} s ({self.num_rows / seconds:,.0f} rows/s)"


def write_probabilities(
    etl: Artifact, ranking: Artifact, impressions: Path, out: Path, about: dict[str, str]
) -> Foretold:
    """Score every row of a file and write SCHEMA to `out`, which appears when the last one is in it.

    Memory does not grow with the rows.

    Args:
        etl: of an impression log.
        ranking: trained from it.
        impressions: rows as the log has them, with the label, which is not read, or without: tab separated text, also
            compressed, or Parquet with columns of those names.
        about: what the file's metadata says under the key "cascade", as JSON.
    Raises: LogError if the file cannot be read or lacks a column; ImpressionFileError if no row can be used;
        TargetError.
    """
    workflow, model = load_workflow(etl, WORKFLOW), OnnxModel(ranking.file("ranker.onnx"))
    foretold = Foretold()
    with (
        replaced(out) as building,
        pq.ParquetWriter(building, SCHEMA.with_metadata({"cascade": json.dumps(about)}), compression="zstd") as writer,
        tqdm(desc="rank", unit=" rows", disable=None, leave=False) as progress,
    ):
        for raw in _raw_blocks(impressions):
            features, line_N, bad = _read(raw, str(impressions))
            encoded = transform(workflow, features)
            columns = {name: encoded[name].to_numpy() for name in model.inputs}
            probability_N = model.run(columns) if len(line_N) else np.empty(0, np.float32)
            writer.write_table(_rows(line_N, probability_N, bad).cast(writer.schema))
            foretold.num_rows += raw.num_rows
            foretold.num_bad += len(bad)
            foretold.named += [
                f"{impressions}, row {line}: {why}" for line, why in bad[: NUM_NAMED - len(foretold.named)]
            ]
            progress.update(raw.num_rows)
        if foretold.num_bad == foretold.num_rows:
            raise ImpressionFileError(
                f"{impressions}: none of {foretold.num_rows} rows can be read; expected I1..I13, C1..C26 as the run's "
                "log has them, with or without the label before them. " + "; ".join(foretold.named)
            )
    return foretold


def _raw_blocks(path: Path) -> Iterator[RawBlock]:
    names = CRITEO_COLUMNS.names
    if path.suffix.lower() not in PARQUET_EXTENSIONS and path.is_file():
        with pa.input_stream(str(path), compression="detect") as stream:
            first = stream.read(1 << 16).split(b"\n", 1)[0]
        if first.count(b"\t") == len(names) - 2:
            names = names[1:]
    wanted = {f"--in: {name}": name for name in (*CRITEO_COLUMNS.continuous, *CRITEO_COLUMNS.categorical)}
    yield from RawFile(path, "\t", "", names).blocks(wanted)


def _read(raw: RawBlock, file: str) -> tuple[pa.Table, np.ndarray, list[tuple[int, str]]]:
    """The rows that can be used, in the form that the workflow was fitted on, their lines [N], and what of the others
    is wrong: (line, reason)."""
    columns, is_good = {}, np.ones(raw.columns.num_rows, bool)
    reasons = {int(line): why for line, why, _ in raw.malformed}
    for name in (*CRITEO_COLUMNS.continuous, *CRITEO_COLUMNS.categorical):
        is_number = name in CRITEO_COLUMNS.continuous
        convert, why = (to_integer, "is not an integer") if is_number else (to_category, "is not UTF-8 text")
        columns[name], is_bad = convert(raw.columns[name], f"{file}: column {name}")
        reasons |= {int(raw.lines[row]): f"{name} {why}" for row in np.flatnonzero(is_bad & is_good).tolist()}
        is_good &= ~is_bad
    # The workflow makes the label too; what stands there reaches no feature of a row that was not fitted on.
    table = pa.table({CRITEO_COLUMNS.label: pa.array(np.zeros(len(is_good), np.int8))} | columns)
    return table.filter(pa.array(is_good)), raw.lines[is_good], sorted(reasons.items())


def _rows(line_N: np.ndarray, probability_N: np.ndarray, bad: list[tuple[int, str]]) -> pa.Table:
    lines, reasons = [line for line, _ in bad], [why for _, why in bad]
    columns = [
        pa.concat_arrays([pa.array(line_N, pa.int64()), pa.array(lines, pa.int64())]),
        pa.concat_arrays([pa.array(probability_N, pa.float32()), pa.nulls(len(bad), pa.float32())]),
        pa.concat_arrays([pa.nulls(len(line_N), pa.string()), pa.array(reasons, pa.string())]),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA).sort_by("line")
