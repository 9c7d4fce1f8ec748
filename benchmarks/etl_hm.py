"""How fast is the whole etl stage on H&M-shaped logs, beside a Polars version of the same interaction features?

Ours is `cascade etl`: reading with quarantine, profile, as-of features of every purchase, users and items with their
state, artifact with hashes. Polars' reads the same Parquet files and writes the same features of the same purchases,
and nothing else; that they are equal is checked on the first, small logs. Processes of their own, in turn.

Prints one JSON line a question: python benchmarks/etl_hm.py [ROWS] [RUNS]
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

SMALL_ROWS = 30_000
HISTORY, WINDOW_DAYS, SHORT_DAYS = 50, 28, 7
EVER = "100000d"
PADDING, FIRST_KNOWN = 0, 3
FULL_ROWS, FULL_USERS, FULL_ITEMS = 31_788_324, 1_371_980, 105_542


def main(num_rows: int, num_runs: int) -> None:
    with tempfile.TemporaryDirectory(prefix="cascade-hm-") as scratch:
        folder = Path(scratch)
        for name, rows in {"small": SMALL_ROWS, "whole": num_rows}.items():
            synth = ["synth", "hm", "--out", str(folder / name), "--rows", str(rows), "--format", "parquet"]
            subprocess.run([sys.executable, "-m", "pipelines", *synth], check=True, stdout=subprocess.DEVNULL)
        for contender in ("ours", "polars"):
            measured(contender, folder, "small")
        check_equal(folder / "small_by_ours", folder / "small_by_polars")
        runs: dict[str, list[tuple[float, float]]] = {"ours": [], "polars": []}
        for _ in range(num_runs):
            for contender, of in runs.items():
                of.append(measured(contender, folder, "whole"))
    ours, polars = (tuple(map(statistics.median, zip(*runs[name], strict=True))) for name in ("ours", "polars"))
    say(
        "whole etl, rows a second, against Polars for the features alone",
        num_rows / ours[0],
        num_rows / polars[0],
        runs,
    )
    say("whole etl, peak memory of the process tree, goal in GiB at full size", ours[1], polars[1], runs, goal=8.0)


def measured(contender: str, folder: Path, size: str) -> tuple[float, float]:
    """Seconds, and the largest memory of the process tree in GiB (proportional set size)."""
    out = folder / f"{size}_by_{contender}"
    if contender == "ours":
        paths = ["--data.adapter", "hm", "--data.hm.path", str(folder / size), "--etl.drop-seen", "false"]
        command = [sys.executable, "-m", "pipelines", "etl", "--out", str(out), *paths]
        subprocess.run(["rm", "-rf", str(out)], check=True)
    else:
        command = [sys.executable, __file__, "--polars", str(folder / size), str(out)]
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    largest = [0.0]
    watcher = threading.Thread(target=_watch, args=(process, largest))
    watcher.start()
    if process.wait():
        raise RuntimeError(f"{contender} failed on {size}: {' '.join(command)}")
    watcher.join()
    return time.perf_counter() - begun, largest[0]


def polars_features(source: Path, out: Path) -> None:
    """The interaction features of every purchase, strictly before its day, normalised on the train part."""
    import polars as pl

    purchases = pl.read_parquet(source / "transactions_train.parquet").select(
        pl.col("customer_id").cast(pl.Categorical).to_physical().alias("user"),
        (pl.col("article_id").cast(pl.Categorical).to_physical() + FIRST_KNOWN).alias("item"),
        pl.col("t_dat").cast(pl.Datetime("ms")).alias("time"),
        pl.col("price").cast(pl.Float32),
        pl.col("sales_channel_id").cast(pl.String).alias("channel"),
    )
    purchases = purchases.sort("time", "user", "item").with_row_index("row")
    cut = [purchases["time"][int(len(purchases) * share)] for share in (0.8, 0.9)]
    by_user = (
        purchases.sort("user", "time", "row")
        .rolling("time", period=EVER, closed="left", group_by="user")
        .agg(
            pl.col("item").tail(HISTORY).reverse().alias("history"),
            pl.len().alias("user_num_events"),
            pl.col("time").last().alias("last"),
            pl.col("channel").last().alias("user_last_sales_channel"),
        )
    )
    rows = purchases.sort("user", "time", "row")["row"]
    by_user = by_user.select("history", "user_num_events", "last", "user_last_sales_channel", row=rows).sort("row")
    one = pl.lit(1.0)

    def counted(window: str) -> pl.Expr:
        return pl.col("one").rolling_sum_by("time", window, closed="left").over("item").fill_null(0)

    known = purchases.with_columns(one=one).sort("item", "time", "row")
    known = known.with_columns(
        item_num_events=counted(EVER),
        item_num_recent_events=counted(f"{WINDOW_DAYS}d"),
        short=counted(f"{SHORT_DAYS}d"),
        first=pl.col("time").min().over("item"),
        median=pl.col("price").rolling_median_by("time", EVER, closed="left").over("item"),
    )
    days = known.group_by("item", "time", maintain_order=True).agg(pl.col("price").last())
    days = days.with_columns(
        item_last_price=pl.col("price").shift(1).over("item"), before=pl.col("time").shift(1).over("item")
    ).drop("price")
    known = known.join(days, on=["item", "time"], how="left", maintain_order="left").sort("row")
    table = pl.concat([known, by_user.drop("row")], how="horizontal")
    day = 86_400_000
    age = (pl.col("time") - pl.col("first")).dt.total_milliseconds() / day
    features = {
        "user_num_events": pl.col("user_num_events"),
        "user_recency_days": ((pl.col("time") - pl.col("last")).dt.total_milliseconds() / day).fill_null(0),
        "item_num_events": pl.col("item_num_events"),
        "item_num_recent_events": pl.col("item_num_recent_events"),
        "item_recency_days": ((pl.col("time") - pl.col("before")).dt.total_milliseconds() / day).fill_null(0),
        "item_age_days": age,
        "item_trend": (4 * pl.col("short") + 1) / (pl.col("item_num_recent_events") + 1),
        "item_last_price": pl.col("item_last_price").fill_null(0),
        "item_price_ratio": (pl.col("item_last_price") / pl.col("median")).fill_null(1),
    }
    logs = {name: value.cast(pl.Float32).log1p() for name, value in features.items()}
    is_train = pl.col("time") < cut[0]
    moments = table.filter(is_train).select(
        *(log.mean().alias(name) for name, log in logs.items()),
        *(log.cast(pl.Float64).std().alias(f"{name}_deviation") for name, log in logs.items()),
    )
    padded = pl.concat_list("history", pl.lit([0] * HISTORY, dtype=pl.List(pl.UInt32))).list.head(HISTORY)
    encoded = table.select(
        "user",
        "item",
        "time",
        padded.list.to_array(HISTORY).alias("history"),
        pl.col("user_last_sales_channel").replace_strict({"1": 3, "2": 4}, default=2).fill_null(1),
        *(
            ((log - moments[name][0]) / moments[f"{name}_deviation"][0]).cast(pl.Float32).alias(name)
            for name, log in logs.items()
        ),
        pl.col("time").dt.hour().alias("hour"),
        pl.col("time").dt.weekday().alias("weekday"),
    )
    out.mkdir(exist_ok=True)
    for name, part in {
        "train": pl.col("time") < cut[0],
        "valid": pl.col("time").is_between(*cut, closed="left"),
        "test": pl.col("time") >= cut[1],
    }.items():
        encoded.filter(part).write_parquet(out / f"{name}.parquet", compression="snappy", row_group_size=250_000)


def check_equal(ours: Path, polars: Path) -> None:
    """The numbers of every purchase agree; histories have the same length. Ties in a day may come in another order."""
    for part in ("train", "valid", "test"):
        one = pq.read_table(ours / "etl" / "examples" / part).sort_by("timestamp")
        other = pq.read_table(polars / f"{part}.parquet")
        assert len(one) == len(other), part
        names = [
            name for name in one.column_names if name in other.column_names and name.startswith(("user_n", "item_"))
        ]
        for name in set(names) - {"item_id", "item_row", "item_last_price", "item_price_ratio"}:
            mine, theirs = (np.sort(table[name].to_numpy()) for table in (one, other))
            np.testing.assert_allclose(mine, theirs, rtol=2e-3, atol=2e-3, err_msg=f"{part} {name}")
        known = [int((_flat(table["history"]) > PADDING).sum()) for table in (one, other)]
        assert known[0] == known[1], (part, known)


def _flat(column: pa.ChunkedArray) -> np.ndarray:
    return column.combine_chunks().flatten().to_numpy(zero_copy_only=False)


def _watch(process: subprocess.Popen, largest: list[float]) -> None:
    while process.poll() is None:
        total = 0
        try:
            root = psutil.Process(process.pid)
            for one in (root, *root.children(recursive=True)):
                total += one.memory_full_info().pss
        except psutil.Error:
            pass
        largest[0] = max(largest[0], total / 2**30)
        time.sleep(0.5)


def say(question: str, ours: float, peer: float, runs: dict, goal: float | None = None) -> None:
    higher = goal is None
    line = {"benchmark": "etl_hm", "question": question, "ours": round(ours, 2), "peer": round(peer, 2)}
    line |= {"unit": "rows/s" if higher else "GiB", "ratio": round(ours / peer, 3), "goal": goal}
    line |= {"better": "higher" if higher else "lower", "met": None if goal is None else ours <= goal}
    line |= {"size": int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000, "runs": len(runs["ours"])}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    print(json.dumps(line | {"cores": os.cpu_count(), "commit": commit}), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--polars"]:
        polars_features(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        arguments = [int(argument) for argument in sys.argv[1:]]
        main(*(arguments + [1_000_000, 1][len(arguments) :]))
