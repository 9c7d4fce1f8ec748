"""Are the operators faster than hand-written Polars, and than NVTabular's own? Criteo-shaped rows, read from Parquet.

Prints one JSON line a question. Needs Polars (`pip install polars`): python benchmarks/etl_ops.py [ROWS]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import dask

dask.config.set({"dataframe.query-planning": False})  # Merlin 23.8 needs the legacy dataframe
warnings.filterwarnings("ignore")

import dask.dataframe as dd  # noqa: E402
import numpy as np  # noqa: E402
import nvtabular as nvt  # noqa: E402
import pandas as pd  # noqa: E402
import polars as pl  # noqa: E402  # pyright: ignore[reportMissingImports]
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from merlin.dag import ColumnSelector  # noqa: E402

from features.ops.categorify import Categorify  # noqa: E402
from features.ops.log_normalize import LogNormalize  # noqa: E402

# Values of Criteo's 26 categorical columns, the largest ones capped by the rows.
NUM_VALUES = (1460, 583, 10_131_227, 2_202_608, 305, 24, 12_517, 633, 3, 93_145, 5_683, 8_351_593, 3_194, 27, 14_992)
NUM_VALUES += (5_461_306, 10, 5_652, 2_173, 4, 7_046_547, 18, 15, 286_181, 105, 142_572)
TEXTS = [f"c{number}" for number in range(len(NUM_VALUES))]
NUMBERS = [f"i{number}" for number in range(13)]
ROWS_PER_PART = 250_000
NUM_RUNS = 3
STOCK_ROWS = 100_000


def main(num_rows: int) -> None:
    with tempfile.TemporaryDirectory(prefix="cascade-etl-ops-") as folder:
        path, small = Path(folder) / "rows.parquet", Path(folder) / "small.parquet"
        pq.write_table(rows(num_rows), path, row_group_size=ROWS_PER_PART)
        pq.write_table(rows(STOCK_ROWS), small, row_group_size=ROWS_PER_PART)
        ours = best(lambda: categorify(path))
        say("Categorify fit + transform, against Polars", num_rows, len(TEXTS), ours, best(lambda: polars_ids(path)))
        ours = best(lambda: log_normalize(path))
        say("LogNormalize fit + transform, against Polars", num_rows, 13, ours, best(lambda: polars_logs(path)))
        ours = best(lambda: categorify(small))
        say("Categorify fit + transform, against NVTabular", STOCK_ROWS, 26, ours, best(lambda: stock_ids(small), 1))


def rows(num_rows: int) -> pa.Table:
    """26 columns of 8 hexadecimal digits, few values frequent and many rare; 13 skewed counts; nulls in both."""
    draw = np.random.default_rng(0)
    columns = {name: _text(draw, num_rows, size) for name, size in zip(TEXTS, NUM_VALUES, strict=True)}
    for number, name in enumerate(NUMBERS):
        counts = np.exp(draw.normal(2, 2, num_rows)).astype(np.int64)
        columns[name] = pa.array(counts, mask=draw.random(num_rows) < 0.1 * (number % 4))
    return pa.table(columns)


def _text(draw: np.random.Generator, num_rows: int, num_values: int) -> pa.Array:
    power = -0.1  # inverse of a distribution function: rank r has a probability of about r ** -1.1
    rank = (((num_values**power - 1) * draw.random(num_rows) + 1) ** (1 / power)).astype(np.uint64)
    spread = ((rank * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)).astype(">u4")
    nibbles = spread.view(np.uint8).reshape(num_rows, 4)
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    text = digits[np.stack([nibbles >> 4, nibbles & 15], axis=2)].reshape(-1)
    offsets = np.arange(0, 8 * num_rows + 1, 8, dtype=np.int32)
    known = pa.array(draw.random(num_rows) >= (0.03 if num_values > 1000 else 0))
    return pa.Array.from_buffers(pa.string(), num_rows, [known.buffers()[1], pa.py_buffer(offsets), pa.py_buffer(text)])


def categorify(path: Path) -> None:
    _fit_and_transform(Categorify(dtype=np.int32), path, TEXTS)


def log_normalize(path: Path) -> None:
    _fit_and_transform(LogNormalize(), path, NUMBERS)


def _fit_and_transform(operator: Categorify | LogNormalize, path: Path, columns: Sequence[str]) -> None:
    groups = range(pq.read_metadata(path).num_row_groups)
    selector = ColumnSelector(list(columns))
    meta = pd.DataFrame({name: [] for name in columns})
    parts = dd.from_map(lambda group: _read(path, group, columns), groups, meta=meta, enforce_metadata=False)
    operator.fit_finalize(_computed([operator.fit(selector, parts)])[0])
    transform = dask.delayed(lambda group: len(operator.transform(selector, _read(path, group, columns))))
    _computed([transform(group) for group in groups])


def _computed(tasks: Sequence) -> tuple:
    return dask.compute(*tasks, scheduler="threads", num_workers=os.cpu_count())


def _read(path: Path, group: int, columns: Sequence[str]) -> pd.DataFrame:
    with pq.ParquetFile(path, read_dictionary=[name for name in columns if name in TEXTS]) as file:
        table = file.read_row_group(group, columns=list(columns), use_threads=False)
    arrays = {name: pd.arrays.ArrowExtensionArray(table[name]) if name in TEXTS else table[name] for name in columns}
    return pd.DataFrame(
        {name: values.to_numpy() if name in NUMBERS else values for name, values in arrays.items()}, copy=False
    )


def polars_ids(path: Path) -> None:
    table = pl.scan_parquet(path).select(TEXTS)
    counted = [table.select(name).drop_nulls().group_by(name).len().sort("len", descending=True) for name in TEXTS]
    vocabularies = pl.collect_all([counts.select(pl.first()).with_row_index("id", offset=3) for counts in counted])
    frame = table.collect()
    for name, vocabulary in zip(TEXTS, vocabularies, strict=True):
        joined = frame.select(name).join(vocabulary, on=name, how="left", maintain_order="left")
        joined.select(pl.when(pl.col(name).is_null()).then(1).otherwise(pl.col("id").fill_null(2)).cast(pl.Int32))


def polars_logs(path: Path) -> None:
    logs = [pl.col(name).fill_null(0).clip(0).cast(pl.Float32).log1p() for name in NUMBERS]
    table = pl.scan_parquet(path).select(logs)
    means, deviations = table.mean().collect(), table.std().collect()
    scaled = [((pl.col(name) - means[name][0]) / deviations[name][0]).cast(pl.Float32) for name in NUMBERS]
    table.select(scaled).collect()


def stock_ids(path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as storage:
        workflow = nvt.Workflow(TEXTS >> nvt.ops.Categorify(out_path=storage))
        encoded = workflow.fit_transform(nvt.Dataset(str(path), engine="parquet", cpu=True)).to_ddf()
        for part in encoded.partitions:
            part.compute(scheduler="synchronous")


def best(run: Callable[[], None], num_runs: int = NUM_RUNS) -> float:
    """Seconds of the fastest run; of more than one, the first is left out, in which numba compiles."""
    taken = []
    for _ in range(num_runs + (num_runs > 1)):
        begun = time.perf_counter()
        run()
        taken.append(time.perf_counter() - begun)
    return min(taken[-num_runs:])


def say(question: str, num_rows: int, num_columns: int, ours: float, peer: float) -> None:
    cell = num_rows * num_columns / 1e9
    line = {"benchmark": "etl_ops", "question": question, "ours": round(ours / cell, 1), "peer": round(peer / cell, 1)}
    line |= {"unit": "ns a cell", "ratio": round(ours / peer, 3), "goal": 1.0, "better": "lower"}
    line |= {"met": ours <= peer, "size": num_rows, "runs": NUM_RUNS, "cores": os.cpu_count(), "commit": commit()}
    print(json.dumps(line))


def commit() -> str:
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
