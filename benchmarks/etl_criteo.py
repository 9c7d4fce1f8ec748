"""Is fit + transform + write of Criteo-shaped logs as fast as hand-written Polars, and faster than stock NVTabular?

Every contender runs in a process of its own, several times in turn; what it needs to import or compile is not counted.
Ours and Polars' write the same ids, which is checked, and the same numbers to 1e-5.

Prints one JSON line a question: python benchmarks/etl_criteo.py [ROWS] [STOCK_ROWS] [RUNS]
"""

from __future__ import annotations

import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

warnings.filterwarnings("ignore")
os.environ["DASK_DATAFRAME__QUERY_PLANNING"] = "False"  # NVTabular needs Dask's legacy dataframe
NUMBERS, TEXTS = [f"I{number}" for number in range(1, 14)], [f"C{number}" for number in range(1, 27)]
MIN_FREQUENCY = 10
WARM_UP_ROWS = 600_000
"""Enough for several parts, so that every kernel is compiled before the clock starts."""


def main(num_rows: int, stock_rows: int, num_runs: int) -> None:
    with tempfile.TemporaryDirectory(prefix="cascade-etl-") as scratch:
        folder = Path(scratch)
        sizes = {"warm_up": WARM_UP_ROWS, "quarter": num_rows // 4, "stock": stock_rows, "whole": num_rows}
        for name, rows in sizes.items():
            synth = ["synth", "criteo", "--out", str(folder / name), "--rows", str(rows), "--format", "parquet"]
            subprocess.run([sys.executable, "-m", "pipelines", *synth], check=True, stdout=subprocess.DEVNULL)
        check_equal(folder)
        found = measured(folder, "whole", ("ours", "polars"), num_runs)
        say("fit + transform + write, against Polars", found, "polars", "seconds", 1.0, num_rows, num_runs)
        say("peak resident memory, against Polars", found, "polars", "gib", None, num_rows, num_runs)
        small = measured(folder, "quarter", ("ours",), 1)
        grown = {"ours": found["ours"], "quarter": small["ours"]}
        say("peak resident memory, against a quarter of the rows", grown, "quarter", "gib", 1.3, num_rows, 1)
        stock = measured(folder, "stock", ("ours", "stock"), 1)
        say("fit + transform + write, against stock NVTabular", stock, "stock", "seconds", 1 / 3, stock_rows, 1)


def measured(folder: Path, size: str, contenders: tuple[str, ...], num_runs: int) -> dict[str, dict[str, float]]:
    """Medians of seconds and GiB of each contender; they take turns."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for _ in range(num_runs):
        for name in contenders:
            command = [sys.executable, __file__, "--run", name, str(folder), size]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            runs[name].append(json.loads(done.stdout.splitlines()[-1]))
    return {name: {unit: statistics.median(run[unit] for run in of) for unit in of[0]} for name, of in runs.items()}


def run(name: str, folder: Path, size: str) -> None:
    """One contender, after a warm-up on fewer rows; prints its seconds and its process's largest memory."""
    contender = {"ours": ours, "polars": polars, "stock": stock}[name]
    contender(folder / "warm_up", folder / f"warm_up_by_{name}")
    begun = time.perf_counter()
    contender(folder / size, folder / f"{size}_by_{name}")
    seconds = time.perf_counter() - begun
    print(json.dumps({"seconds": seconds, "gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}))


def ours(source: Path, out: Path) -> None:
    from features import executor
    from features.cluster import open_cluster
    from features.config import ImpressionsConfig
    from features.impressions import CRITEO_COLUMNS, impression_workflow
    from features.partitions import ParquetParts

    with tempfile.TemporaryDirectory() as storage, open_cluster("threads") as cluster:
        config = ImpressionsConfig(min_frequency=MIN_FREQUENCY)
        workflow = impression_workflow(config, CRITEO_COLUMNS, {}, Path(storage))
        parts = ParquetParts.of(files(source))
        executor.fit(workflow, parts, cluster)
        executor.write_parts(workflow, parts, out, cluster)


def polars(source: Path, out: Path) -> None:
    import polars as pl

    frame = pl.scan_parquet(files(source))
    logs = {name: pl.col(name).fill_null(0).clip(0).cast(pl.Float32).log1p() for name in NUMBERS}
    moments = [log.mean().alias(name) for name, log in logs.items()]
    moments += [log.cast(pl.Float64).std().alias(f"{name}_deviation") for name, log in logs.items()]
    counts = [
        frame.group_by(name).len().filter(pl.col("len") >= MIN_FREQUENCY, pl.col(name).is_not_null())
        .sort("len", name, descending=[True, False])
        for name in TEXTS
    ]  # fmt: skip
    found, *vocabularies = pl.collect_all([frame.select(moments), *counts], engine="streaming")
    numbers = [
        ((log - found[name][0]) / found[f"{name}_deviation"][0]).cast(pl.Float32).alias(name)
        for name, log in logs.items()
    ]
    ids = []
    for name, vocabulary in zip(TEXTS, vocabularies, strict=True):
        known = pl.int_range(3, 3 + len(vocabulary), dtype=pl.Int32, eager=True)
        encoded = pl.col(name).replace_strict(vocabulary[name], known, default=2, return_dtype=pl.Int32)
        ids.append(pl.when(pl.col(name).is_null()).then(1).otherwise(encoded).cast(pl.Int32).alias(name))
    out.mkdir(exist_ok=True)
    written = frame.select(pl.col("label"), *numbers, *ids)
    written.sink_parquet(out / "all.parquet", compression="snappy", row_group_size=250_000, engine="streaming")


def stock(source: Path, out: Path) -> None:
    """As NVTabular's own Criteo example has it, with its defaults for everything else."""
    import nvtabular as nvt
    from nvtabular import ops

    numbers = (
        NUMBERS >> ops.FillMissing() >> ops.Clip(min_value=0) >> ops.LogOp() >> ops.Normalize(out_dtype=np.float32)
    )
    with tempfile.TemporaryDirectory() as storage:
        ids = TEXTS >> ops.Categorify(freq_threshold=MIN_FREQUENCY, out_path=storage)
        workflow = nvt.Workflow(numbers + ids + ["label"])
        dataset = nvt.Dataset([str(path) for path in files(source)], engine="parquet", cpu=True)
        workflow.fit(dataset)
        workflow.transform(dataset).to_parquet(str(out))


def files(folder: Path) -> list[Path]:
    """The days in their order."""
    return sorted(folder.glob("*.parquet"), key=lambda path: int(re.findall(r"\d+", path.name)[0]))


def check_equal(folder: Path) -> None:
    """Ours and Polars' write the same."""
    for name in ("ours", "polars"):
        subprocess.run(
            [sys.executable, __file__, "--run", name, str(folder), "quarter"], check=True, stdout=subprocess.DEVNULL
        )
    one, other = (pq.read_table(folder / f"quarter_by_{name}") for name in ("ours", "polars"))
    for name in TEXTS:
        assert one[name].combine_chunks().equals(other[name].combine_chunks()), name
    for name in NUMBERS:
        np.testing.assert_allclose(one[name].to_numpy(), other[name].to_numpy(), rtol=1e-4, atol=1e-5, err_msg=name)


def say(question: str, found: dict, peer: str, unit: str, goal: float | None, size: int, runs: int) -> None:
    ours, theirs = found["ours"][unit], found[peer][unit]
    ratio = ours / theirs
    line = {"benchmark": "etl_criteo", "question": question, "ours": round(ours, 3), "peer": round(theirs, 3)}
    line |= {"unit": unit, "ratio": round(ratio, 3), "goal": goal, "better": "lower"}
    line |= {"met": None if goal is None else ratio <= goal, "size": size, "runs": runs, "cores": os.cpu_count()}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    print(json.dumps(line | {"commit": commit}), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        run(sys.argv[2], Path(sys.argv[3]), sys.argv[4])
    else:
        sizes = [int(argument) for argument in sys.argv[1:]]
        main(*(sizes + [4_000_000, 200_000, 3][len(sizes) :]))
