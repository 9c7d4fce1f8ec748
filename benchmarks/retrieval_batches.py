"""Are lists looked up by row faster than lists sent through Merlin's dataloader? Same rows, both shuffled.

Prints one JSON line. python benchmarks/retrieval_batches.py [NUM_ROWS]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time

import dask

dask.config.set({"dataframe.query-planning": False})

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import torch  # noqa: E402
from merlin.dataloader.torch import Loader  # noqa: E402
from merlin.io import Dataset  # noqa: E402

LENGTH, BATCH_SIZE, NUM_RUNS = 50, 1024, 3


def main(num_rows: int) -> None:
    random = np.random.default_rng(0)
    lists = random.integers(0, 10_000, (num_rows, LENGTH))
    plain = pd.DataFrame({"example": np.arange(num_rows), "item_row": random.integers(0, 10_000, num_rows)})
    ours, looked_up = Dataset(plain, cpu=True), torch.from_numpy(lists)
    with tempfile.TemporaryDirectory() as folder:
        flat = pa.array(lists.reshape(-1))
        history = pa.FixedSizeListArray.from_arrays(flat, LENGTH)
        pq.write_table(pa.Table.from_pandas(plain).append_column("history", history), f"{folder}/part.parquet")
        compare(Dataset(folder, engine="parquet", cpu=True), ours, looked_up)


def compare(stock: Dataset, ours: Dataset, looked_up: torch.Tensor) -> None:
    num_rows = len(looked_up)
    seconds: dict[str, list[float]] = {"stock": [], "ours": []}
    for _ in range(NUM_RUNS):
        begun = time.perf_counter()
        for batch, _ in Loader(stock, batch_size=BATCH_SIZE, shuffle=True, device="cpu"):
            batch["history__values"].reshape(-1, LENGTH)
        seconds["stock"].append(time.perf_counter() - begun)
        begun = time.perf_counter()
        for batch, _ in Loader(ours, batch_size=BATCH_SIZE, shuffle=True, device="cpu"):
            looked_up[batch["example"]]
        seconds["ours"].append(time.perf_counter() - begun)
    rate = {name: num_rows / float(np.median(times)) for name, times in seconds.items()}
    line = {"benchmark": "retrieval_batches", "question": "rows/s of a shuffled epoch with one list of 50"}
    line |= {"ours": round(rate["ours"]), "peer": round(rate["stock"]), "unit": "rows/s"}
    line |= {"ratio": round(rate["ours"] / rate["stock"], 2), "goal": 1.0, "better": "higher"}
    line |= {"met": rate["ours"] >= rate["stock"], "size": num_rows, "runs": NUM_RUNS, "cores": os.cpu_count()}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    print(json.dumps(line | {"commit": commit}))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
