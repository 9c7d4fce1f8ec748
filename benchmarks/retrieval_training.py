"""How fast does the two-tower model train, against stock Merlin embedding tables and Adam at equal validation recall?

Both sides train the same towers with the same loss on the same batches of a made world, from the etl stage's parquet
files to the model: tables as the whole log needs them, and a sample of its interactions, because rows/s are those of
any number of rows. The peer has Merlin's `EmbeddingTable` as it is (dense gradients), torch's Adam on all weights, and
no average of them; a second peer adds torch's moving average, which is what ours has besides. Its step size was chosen
like ours, by validation recall in this world.

Prints one JSON line a question. python benchmarks/retrieval_training.py [INTERACTIONS USERS ITEMS ROWS EPOCHS RUNS]
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast
from unittest.mock import patch

import dask

dask.config.set({"dataframe.query-planning": False})

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import torch  # noqa: E402
from merlin.models.torch import EmbeddingTable  # noqa: E402
from torch import nn  # noqa: E402
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn  # noqa: E402

from features.artifact import Artifact, open_artifact, writing  # noqa: E402
from features.batches import FeatureTables  # noqa: E402
from features.etl import EtlConfig  # noqa: E402
from features.etl import run as run_etl  # noqa: E402
from features.logs.synthetic import SyntheticConfig, synthetic_logs  # noqa: E402
from retrieval.config import RetrievalConfig  # noqa: E402
from retrieval.popularity import PopularityTimeline  # noqa: E402
from retrieval.train import train  # noqa: E402
from retrieval.two_tower import TwoTower  # noqa: E402
from retrieval.validation import UnseenIds, Validation  # noqa: E402

GOAL = 2.0
PEER_LEARNING_RATE = 2e-3


class StockTable(EmbeddingTable):
    """Merlin's, with the initial scale that ours has."""

    def create_table(self) -> nn.Module:
        table = cast(nn.Embedding, super().create_table())
        nn.init.normal_(table.weight, std=table.embedding_dim**-0.5)
        return table

    def sequence(self, row_BL: torch.Tensor) -> torch.Tensor:
        """[B, L, D] the vectors of lists one by one."""
        return self.table(row_BL)


class StockWeights:
    """In the place of `TrainedWeights`: torch's Adam over all weights."""

    def __init__(self, model: TwoTower, config: RetrievalConfig) -> None:
        self.model, self.average = model, self
        self._adam = torch.optim.Adam(model.parameters(), config.learning_rate, fused=True)

    def step(self, loss: torch.Tensor) -> None:
        self._adam.zero_grad()
        loss.backward()
        self._adam.step()

    def current(self) -> TwoTower:
        return copy.deepcopy(self.model).eval()


class StockAveragedWeights(StockWeights):
    """The same with torch's moving average of all weights."""

    def __init__(self, model: TwoTower, config: RetrievalConfig) -> None:
        super().__init__(model, config)
        self._averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.averaging)).eval()

    def step(self, loss: torch.Tensor) -> None:
        super().step(loss)
        self._averaged.update_parameters(self.model)

    def current(self) -> TwoTower:
        return cast(TwoTower, self._averaged.module)


Measured = dict[str, list[float]]
SIDES: dict[str, type[StockWeights] | None] = {"ours": None, "stock": StockWeights, "averaged": StockAveragedWeights}


def main(num_interactions: int, num_users: int, num_items: int, num_rows: int, num_epochs: int, num_runs: int) -> None:
    with tempfile.TemporaryDirectory(prefix="cascade-bench-") as folder:
        world = SyntheticConfig(num_interactions=num_interactions, num_users=num_users, num_items=num_items)
        etl, sample = etl_of(Path(folder) / "etl", world), Path(folder) / "sample.parquet"
        examples = pa.concat_tables([pq.read_table(path) for path in etl.files("examples/train/")])
        rows = np.random.default_rng(0).choice(len(examples), min(num_rows, len(examples)), replace=False)
        pq.write_table(examples.take(np.sort(rows)), sample)
        trained_on = trainer(etl, sample, num_epochs)
        measured: dict[str, Measured] = {side: {"rate": [], "recall": [], "seconds": []} for side in SIDES}
        for seed in range(num_runs):
            for side, weights in SIDES.items():
                for name, values in trained_on(weights, seed).items():
                    measured[side][name] += values
    ours, stock, averaged = measured["ours"], measured["stock"], measured["averaged"]
    size = num_interactions
    say("training rows/s against stock Merlin tables and Adam", ours["rate"], stock["rate"], "rows/s", GOAL, size)
    say(
        "the same against the peer with an average of its weights", ours["rate"], averaged["rate"], "rows/s", GOAL, size
    )
    say("seconds from parquet to model, validation included", ours["seconds"], stock["seconds"], "s", 1.0, size)
    recall = "validation recall@100 after these epochs"
    say(f"{recall}, against the peer", ours["recall"], stock["recall"], "recall", 1.0, size)
    say(f"{recall}, against the averaged peer", ours["recall"], averaged["recall"], "recall", 1.0, size)


def trainer(etl: Artifact, sample: Path, num_epochs: int) -> Callable[[type[StockWeights] | None, int], Measured]:
    """What trains one side with one seed: rows/s of each epoch, the best recall, seconds."""
    config = RetrievalConfig(max_epochs=num_epochs, patience=num_epochs)
    torch.set_num_threads(config.num_threads)
    tables, popularity, hidden = FeatureTables(etl), PopularityTimeline(etl), UnseenIds(etl)
    validation = Validation(etl, tables, popularity, hidden, config.recall_at, config.sources.max_users, seed=0)

    def measure(weights: type[StockWeights] | None, seed: int) -> Measured:
        begun = time.perf_counter()
        with ExitStack() as stack:
            if weights:
                stack.enter_context(patch("features.embedding.PooledEmbeddingTable", StockTable))
                stack.enter_context(patch("retrieval.train.TrainedWeights", weights))
            own = replace(config, learning_rate=PEER_LEARNING_RATE) if weights else config
            _, curve = train(own, etl, tables, popularity, [sample], seed, hidden=hidden, validation=validation)
        seconds = time.perf_counter() - begun
        rate, recall = ([epoch[name] for epoch in curve.epochs] for name in ("rows_per_second", "recall"))
        print(weights and weights.__name__, seed, rate, recall, round(seconds), file=sys.stderr, flush=True)
        return {"rate": rate, "recall": [max(recall)], "seconds": [seconds]}

    return measure


def etl_of(folder: Path, world: SyntheticConfig) -> Artifact:
    config = EtlConfig()
    with writing(folder, "etl", asdict(config), 0, {}) as writer:
        run_etl(config, synthetic_logs(world), writer)
    return open_artifact(folder, "etl")


def say(question: str, ours: list[float], peer: list[float], unit: str, goal: float, size: int) -> None:
    mine, theirs = float(np.median(ours)), float(np.median(peer))
    better, ratio = "lower" if unit == "s" else "higher", mine / theirs
    line = {"benchmark": "retrieval_training", "question": question, "ours": round(mine, 4), "peer": round(theirs, 4)}
    line |= {"unit": unit, "ratio": round(ratio, 3), "goal": goal, "better": better}
    line |= {"met": ratio >= goal if better == "higher" else ratio <= goal, "size": size, "runs": len(ours)}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    print(json.dumps(line | {"cores": os.cpu_count(), "commit": commit}), flush=True)


if __name__ == "__main__":
    main(*[int(value) for value in sys.argv[1:]] or [1_000_000, 100_000, 50_000, 200_000, 2, 2])
