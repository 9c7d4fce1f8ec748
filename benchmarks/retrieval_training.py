"""How fast does the two-tower model train, against stock Merlin embedding tables and Adam at equal validation recall?

Both sides have the same towers, loss and batches, in a made world with tables as its whole log needs them (by default
all of H&M's articles and a third of its customers). The larger the tables, the more the peer's steps cost; ours stay as
they are. The peer has Merlin's `EmbeddingTable` as it is (dense gradients), torch's Adam on all weights, and no average
of them; a second peer adds torch's moving average, which is what ours has besides.

Rows/s: the sides take their steps in turn, batch by batch, so that they share what else the machine does, and the
median step of each counts, the loading of the batch included. Recall: each side is then trained on a sample of the log,
from the etl stage's parquet files to the model, with a step size that was chosen by validation recall in this world.

Prints one JSON line a question. python benchmarks/retrieval_training.py [INTERACTIONS USERS ITEMS ROWS EPOCHS STEPS]
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar, cast
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
from retrieval.training.learning_curve import LearningCurve  # noqa: E402
from retrieval.training.loop import Training  # noqa: E402
from retrieval.two_tower import TwoTower  # noqa: E402
from retrieval.validation import UnseenIds, Validation  # noqa: E402

GOAL = 2.0
PEER_LEARNING_RATE = 5e-3
"""Of 1e-3, 2e-3 and 5e-3 the best here by validation recall."""


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


SIDES: dict[str, type[StockWeights] | None] = {"ours": None, "stock": StockWeights, "averaged": StockAveragedWeights}
NUM_WARM_UP = 20
"""Steps that do not count."""


class Waiting(Training):
    """A training whose steps are taken from outside."""

    made: ClassVar[list[Training]] = []

    def run(self) -> TwoTower:
        self.made.append(self)
        return self._weights.average.current()


@dataclass
class World:
    """What all trainings share."""

    etl: Artifact
    sample: Path
    tables: FeatureTables
    popularity: PopularityTimeline
    hidden: UnseenIds
    validation: Validation


def main(num_interactions: int, num_users: int, num_items: int, num_rows: int, num_epochs: int, num_steps: int) -> None:
    with tempfile.TemporaryDirectory(prefix="cascade-bench-") as folder:
        config = SyntheticConfig(num_interactions=num_interactions, num_users=num_users, num_items=num_items)
        world = world_of(Path(folder), config, num_rows)
        rates = rows_per_second(world, num_steps)
        recalls, seconds = {}, {}
        for side in SIDES:
            begun = time.perf_counter()
            recalls[side] = max(epoch["recall"] for epoch in trained(world, side, num_epochs).epochs)
            seconds[side] = time.perf_counter() - begun
    for peer, name in (("stock", "stock Merlin tables and Adam"), ("averaged", "the same with averaged weights")):
        say(f"training rows/s against {name}", rates["ours"], rates[peer], "rows/s", GOAL, num_interactions, num_steps)
        question = f"validation recall@100 after {num_epochs} epochs against {name}"
        say(question, recalls["ours"], recalls[peer], "recall", 1.0, num_rows, 1)
    question = "seconds from parquet to model, with validation, against stock Merlin tables and Adam"
    say(question, seconds["ours"], seconds["stock"], "s", 1.0, num_rows, 1)


def rows_per_second(world: World, num_steps: int) -> dict[str, float]:
    """Of each side, from its median step."""
    sides = {}
    for side in SIDES:
        with patch("retrieval.train.Training", Waiting):
            trained(world, side, num_epochs=1)
        sides[side] = Waiting.made.pop()
    batch_size = RetrievalConfig().batch_size
    spent: dict[str, list[float]] = {side: [] for side in SIDES}
    loading: list[float] = []
    batches = sides["ours"].batches.epoch(0)
    for _ in range(NUM_WARM_UP + num_steps):
        begun = time.perf_counter()
        batch = next(batches)
        loading.append(time.perf_counter() - begun)
        for side, training in sides.items():
            begun = time.perf_counter()
            training.step(batch)
            spent[side].append(time.perf_counter() - begun)
    load = float(np.median(loading[NUM_WARM_UP:]))
    return {side: batch_size / (load + float(np.median(times[NUM_WARM_UP:]))) for side, times in spent.items()}


def trained(world: World, side: str, num_epochs: int) -> LearningCurve:
    weights = SIDES[side]
    config = RetrievalConfig(max_epochs=num_epochs, patience=num_epochs)
    with ExitStack() as stack:
        if weights:
            config = replace(config, learning_rate=PEER_LEARNING_RATE)
            stack.enter_context(patch("features.embedding.PooledEmbeddingTable", StockTable))
            stack.enter_context(patch("retrieval.train.TrainedWeights", weights))
        shared = config, world.etl, world.tables, world.popularity, [world.sample]
        _, curve = train(*shared, seed=0, hidden=world.hidden, validation=world.validation)
    return curve


def world_of(folder: Path, config: SyntheticConfig, num_rows: int) -> World:
    etl, sample = etl_of(folder / "etl", config), folder / "sample.parquet"
    examples = pa.concat_tables([pq.read_table(path) for path in etl.files("examples/train/")])
    rows = np.random.default_rng(0).choice(len(examples), min(num_rows, len(examples)), replace=False)
    pq.write_table(examples.take(np.sort(rows)), sample)
    retrieval = RetrievalConfig()
    torch.set_num_threads(retrieval.num_threads)
    tables, popularity, hidden = FeatureTables(etl), PopularityTimeline(etl), UnseenIds(etl)
    max_users = retrieval.sources.max_users
    validation = Validation(etl, tables, popularity, hidden, retrieval.recall_at, max_users, seed=0)
    return World(etl, sample, tables, popularity, hidden, validation)


def etl_of(folder: Path, world: SyntheticConfig) -> Artifact:
    config = EtlConfig()
    with writing(folder, "etl", asdict(config), 0, {}) as writer:
        run_etl(config, synthetic_logs(world), writer)
    return open_artifact(folder, "etl")


def say(question: str, ours: float, peer: float, unit: str, goal: float, size: int, runs: int) -> None:
    better, ratio = "lower" if unit == "s" else "higher", ours / peer
    line = {"benchmark": "retrieval_training", "question": question, "ours": round(ours, 4), "peer": round(peer, 4)}
    line |= {"unit": unit, "ratio": round(ratio, 3), "goal": goal, "better": better}
    line |= {"met": ratio >= goal if better == "higher" else ratio <= goal, "size": size, "runs": runs}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    print(json.dumps(line | {"cores": os.cpu_count(), "commit": commit}), flush=True)


if __name__ == "__main__":
    main(*[int(value) for value in sys.argv[1:]] or [1_000_000, 500_000, 100_000, 100_000, 1, 150])
