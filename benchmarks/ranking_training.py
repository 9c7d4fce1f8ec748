"""How fast does the published DLRM train on one machine: against stock Merlin, a bare fbgemm loop, and the processor?

Criteo's geometry: 13 numbers, 26 tables of 5.1 million rows in all (a few to a million each, ids drawn from Zipf's
law), vectors of 128, bottom MLP 512-256-128, top MLP 512-256-1. Everything is timed from Parquet files to updated
weights, but for the bare loop, which is fed from memory:

- ours: the loader, the model and the optimizers of `ranking.clicks`;
- stock: `mm.DLRMModel`, Merlin's own Loader and torch.optim.Adam, which steps every row of every table;
- sparse: the same with sparse gradients and torch.optim.SparseAdam for the tables;
- bare: fbgemm's fused tables and torch layers in the order of DLRM's authors' code, nothing else.

A second bare loop has our products of pairs in place of the authors': what is left between it and ours is what loading
and the generality of the model cost. Ours is also timed with the penalty on ids, its default, which no peer has.

Sides that are compared take their steps in turn, so that they share what else the machine does, and the median step of
each counts. In bfloat16, all run under the same autocast. Then the share of the processor's rate that our step reaches:
the operations of its products over the time of the step, beside the rate of the same products alone.

Prints one JSON line a question. It needs 14 GB, most of it for Adam: with 0 STOCK_STEPS the stock sides are left out,
and 6 GB are enough. python benchmarks/ranking_training.py [ROWS STEPS STOCK_STEPS THREADS]
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import dask

dask.config.set({"dataframe.query-planning": False})

import merlin.models.torch as mm  # noqa: E402
import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import torch  # noqa: E402
from merlin.dataloader.torch import Loader  # noqa: E402
from merlin.io import Dataset  # noqa: E402
from merlin.schema import ColumnSchema, Schema, Tags  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.functional import binary_cross_entropy, binary_cross_entropy_with_logits  # noqa: E402

from features.allocator import keep_freed_memory  # noqa: E402
from features.batches import Batch  # noqa: E402
from features.fused_tables import load_fbgemm  # noqa: E402
from ranking.clicks.batches import ClickBatches  # noqa: E402
from ranking.clicks.ranker import ClickRanker  # noqa: E402
from ranking.config import ClickConfig, DlrmConfig, NetworkConfig  # noqa: E402
from ranking.networks.pair_products import PairProducts  # noqa: E402
from ranking.training.schedule import RateSchedule  # noqa: E402
from ranking.training.trained_weights import Rates, TrainedWeights  # noqa: E402

# N rows  C = 26 categories  D = 128  V = 27 vectors  P = 351 pairs

NUM_IDS = [1_460, 583, 1_000_000, 800_000, 305, 24, 12_517, 633, 3, 93_145, 5_683, 900_000, 3_194]
NUM_IDS += [27, 14_992, 800_000, 10, 5_652, 2_173, 4, 1_000_000, 18, 15, 286_181, 105, 142_572]
"""The sizes of Criteo's columns, those over a million cut to about that."""
DIM, NUM_NUMBERS = 128, 13
BOTTOM, TOP = (512, 256), (512, 256)
STOCK_GOAL, BARE_GOAL = 2.5, 0.95
NUM_WARM_UP = 4
"""Steps of each side that do not count."""
DENSE_RATE, TABLE_RATE = 1e-3, 2e-2


class Side(Protocol):
    """Something that trains."""

    def begin(self, batch_size: int, bf16: bool) -> None:
        """Load from now on batches of this size, and compute in this type."""
        ...


class Ours:
    """What `cascade ranking` trains, with its loader and its optimizers."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths, dlrm = paths, DlrmConfig(bottom_units=BOTTOM, top_units=TOP)
        network = NetworkConfig(embedding_dim=DIM, dropout=0, dlrm=dlrm, tables="fused")
        self._model = ClickRanker(schema(), network, ClickBatches(paths, schema(), 1, seed=0).statistics, 0)
        self._model.start()
        self._model.train()
        rates = Rates(DENSE_RATE, TABLE_RATE, ClickConfig().weight_decay, 0.0, RateSchedule(1_000_000))
        self._weights = TrainedWeights(self._model, rates)

    def begin(self, batch_size: int, bf16: bool) -> None:
        self._bf16, self._stream = bf16, endless(ClickBatches(self._paths, schema(), batch_size, seed=0).epoch)

    def step(self, l2: float = 0.0) -> None:
        batch, self._model.l2 = next(self._stream), l2
        self._weights.begin_step()
        with torch.autocast("cpu", torch.bfloat16, enabled=self._bf16):
            logit_N, penalty = self._model.scored(batch)
        loss = binary_cross_entropy_with_logits(logit_N.float(), batch["label"].float())
        loss.item()
        self._weights.step(loss + penalty)


class Stock:
    """Merlin's DLRM, loader and loss, and torch's Adam; `sparse`: SparseAdam on sparse gradients for the tables."""

    def __init__(self, paths: list[Path], sparse: bool) -> None:
        self._paths = paths
        features = Schema([column for column in schema() if column.name != "label"])
        output = mm.BinaryOutput(schema()["label"])
        self._model = mm.DLRMModel(features, DIM, mm.MLPBlock([*BOTTOM, DIM]), mm.MLPBlock([*TOP]), output_block=output)
        self.begin(2, bf16=False)
        self._model(next(self._stream)[0])  # Merlin's layers take their shapes from the first batch
        tables = [module for module in self._model.modules() if isinstance(module, nn.Embedding)]
        for table in tables:
            table.sparse = sparse
            nn.init.uniform_(table.weight, -(len(table.weight) ** -0.5), len(table.weight) ** -0.5)
        in_tables = {id(table.weight) for table in tables}
        layers = [weight for weight in self._model.parameters() if id(weight) not in in_tables]
        stepped = layers if sparse else self._model.parameters()
        self._optimizers: list[torch.optim.Optimizer] = [torch.optim.Adam(stepped, DENSE_RATE, fused=True)]
        if sparse:
            self._optimizers.append(torch.optim.SparseAdam([table.weight for table in tables], DENSE_RATE))

    def begin(self, batch_size: int, bf16: bool) -> None:
        loader = Loader(
            Dataset([str(path) for path in self._paths], schema=schema(), cpu=True), batch_size, shuffle=True
        )
        self._bf16, self._stream = bf16, endless(lambda number: loader)

    def step(self) -> None:
        features, label = next(self._stream)
        with torch.autocast("cpu", torch.bfloat16, enabled=self._bf16):
            probability = self._model(features)
        loss = binary_cross_entropy(probability.float().view(-1), label.float().view(-1))
        loss.item()
        for optimizer in self._optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in self._optimizers:
            optimizer.step()


class Bare:
    """fbgemm's tables and torch's layers, as the authors of DLRM write it, over batches that lie in memory."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths, fbgemm = paths, load_fbgemm()
        place = fbgemm.EmbeddingLocation.HOST, fbgemm.ComputeDevice.CPU
        self._tables = fbgemm.SplitTableBatchedEmbeddingBagsCodegen(
            [(num_ids, DIM, *place) for num_ids in NUM_IDS],
            optimizer=fbgemm.OptimType.EXACT_ROWWISE_ADAGRAD,
            learning_rate=TABLE_RATE,
            pooling_mode=fbgemm.PoolingMode.SUM,
            bounds_check_mode=fbgemm.BoundsCheckMode.NONE,
        )
        for weight in self._tables.split_embedding_weights():
            weight.uniform_(-(len(weight) ** -0.5), len(weight) ** -0.5)
        self._bottom, self._top = layers(NUM_NUMBERS, *BOTTOM, DIM), layers(DIM + 351, *TOP)
        self._top.append(nn.Linear(TOP[-1], 1))
        self._our_products = PairProducts(27)
        self._one_P, self._other_P = torch.tril_indices(27, 27, offset=-1)
        weights = [*self._bottom.parameters(), *self._top.parameters()]
        self._adam = torch.optim.AdamW(weights, DENSE_RATE, weight_decay=ClickConfig().weight_decay, fused=True)

    def begin(self, batch_size: int, bf16: bool) -> None:
        batches, self._bf16 = ClickBatches(self._paths, schema(), batch_size, seed=0).epoch(0), bf16
        kept = [in_matrices(batch) for _, batch in zip(range(12), batches, strict=False)]
        batches.close()
        self._offset = torch.arange(26 * batch_size + 1)
        self._stream = endless(lambda number: iter(kept))

    def step(self, our_products: bool = False) -> None:
        products = self._our_products if our_products else self._products
        number_NF, id_T, label_N = next(self._stream)
        with torch.autocast("cpu", torch.bfloat16, enabled=self._bf16):
            bottom_ND = self._bottom(number_NF)
            vector_NCD = self._tables(id_T, self._offset).view(len(label_N), 26, DIM)
            top_input = torch.cat([bottom_ND, products(bottom_ND, vector_NCD)], dim=1)
            logit_N = self._top(top_input).squeeze(1)
        loss = binary_cross_entropy_with_logits(logit_N.float(), label_N)
        loss.item()
        self._adam.zero_grad()
        loss.backward()
        self._adam.step()

    def _products(self, bottom_ND: torch.Tensor, vector_NCD: torch.Tensor) -> torch.Tensor:
        stacked_NVD = torch.cat([bottom_ND.unsqueeze(1), vector_NCD], dim=1)
        return torch.bmm(stacked_NVD, stacked_NVD.transpose(1, 2))[:, self._one_P, self._other_P]


def main(num_rows: int, num_steps: int, num_stock_steps: int, num_threads: int) -> None:
    torch.set_num_threads(num_threads)
    torch.manual_seed(0)
    keep_freed_memory()
    with tempfile.TemporaryDirectory(prefix="cascade-bench-") as folder:
        paths = written(Path(folder), num_rows)
        ours, bare = Ours(paths), Bare(paths)
        steps = {"ours": ours.step, "penalty": partial(ours.step, l2=ClickConfig().l2)}
        steps |= {"bare": bare.step, "our products": partial(bare.step, our_products=True)}
        for batch_size, bf16, rate in rates([ours, bare], steps, num_steps):
            say("a bare fbgemm loop in memory", rate, "bare", batch_size, bf16, num_steps, BARE_GOAL)
            say(
                "the same loop with our products of pairs", rate, "our products", batch_size, bf16, num_steps, BARE_GOAL
            )
            say("ours with the default penalty on ids", rate, "penalty", batch_size, bf16, num_steps, None)
            say_share(rate["ours"], batch_size, bf16, num_steps)
        del bare, steps
        for sparse, name, runs in ((True, "SparseAdam", num_steps), (False, "Adam", num_stock_steps)):
            if not num_stock_steps:
                break
            gc.collect()
            stock = Stock(paths, sparse)
            for batch_size, bf16, rate in rates([ours, stock], {"ours": ours.step, "stock": stock.step}, runs):
                say(f"stock Merlin with {name}", rate, "stock", batch_size, bf16, runs, STOCK_GOAL)
            del stock


def rates(
    sides: Sequence[Side], steps: dict[str, Callable[[], None]], num_steps: int
) -> Iterator[tuple[int, bool, dict[str, float]]]:
    """Batch size, whether in bfloat16, and rows/s of each kind of step, from the median of those taken in turn."""
    for batch_size, bf16 in ((2_048, False), (2_048, True), (8_192, False), (8_192, True)):
        for side in sides:
            side.begin(batch_size, bf16)
        spent: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(NUM_WARM_UP + num_steps):
            for name, step in steps.items():
                begun = time.perf_counter()
                step()
                spent[name].append(time.perf_counter() - begun)
        yield batch_size, bf16, {n: batch_size / float(np.median(spent[n][NUM_WARM_UP:])) for n in steps}


def say(
    peer: str, rate: dict[str, float], side: str, batch_size: int, bf16: bool, runs: int, goal: float | None
) -> None:
    kind = "bfloat16" if bf16 else "float32"
    question = f"rows/s, batches of {batch_size}, {kind}, against {peer}"
    write(question, rate["ours"], rate[side], "rows/s", goal, batch_size, runs)


def say_share(rows_per_second: float, batch_size: int, bf16: bool, runs: int) -> None:
    """The step's products: three of each layer (the first one's input needs no gradient), and two of all pairs."""
    kind, dtype = ("bfloat16", torch.bfloat16) if bf16 else ("float32", torch.float32)
    widths = [
        *zip((NUM_NUMBERS, *BOTTOM), (*BOTTOM, DIM), strict=True),
        *zip((DIM + 351, *TOP), (*TOP, 1), strict=True),
    ]
    operations, seconds = 0, 0.0
    for num_in, num_out in widths:
        left, weight = torch.randn(batch_size, num_in, dtype=dtype), torch.randn(num_in, num_out, dtype=dtype)
        above = torch.randn(batch_size, num_out, dtype=dtype)
        products = [(left, weight), (left.t(), above)] + [(above, weight.t())] * (num_in != NUM_NUMBERS)
        operations += 2 * batch_size * num_in * num_out * len(products)
        seconds += sum(best_seconds(torch.mm, pair) for pair in products)
    vector, gram = torch.randn(batch_size, 27, DIM, dtype=dtype), torch.randn(batch_size, 27, 27, dtype=dtype)
    operations += 2 * 2 * batch_size * 27 * 27 * DIM
    seconds += best_seconds(torch.bmm, (vector, vector.transpose(1, 2))) + best_seconds(torch.bmm, (gram, vector))
    ours = operations / batch_size * rows_per_second / 1e9
    question = f"operations/s of the step's products, batches of {batch_size}, {kind}, against the products alone"
    write(question, ours, operations / seconds / 1e9, "GFLOP/s", None, batch_size, runs)


def best_seconds(product: Any, factors: tuple[torch.Tensor, torch.Tensor]) -> float:
    def seconds() -> float:
        begun = time.perf_counter()
        product(*factors)
        return time.perf_counter() - begun

    return min(seconds() for _ in range(20))


def write(question: str, ours: float, peer: float, unit: str, goal: float | None, size: int, runs: int) -> None:
    ratio = ours / peer
    line = {"benchmark": "ranking_training", "question": question, "ours": round(ours, 1), "peer": round(peer, 1)}
    line |= {"unit": unit, "ratio": round(ratio, 3), "goal": goal, "better": "higher"}
    line |= {"met": None if goal is None else ratio >= goal, "size": size, "runs": runs}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    line |= {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "commit": commit}
    print(json.dumps(line), flush=True)


def schema() -> Schema:
    columns = [ColumnSchema("label", dtype="int8", tags=[Tags.TARGET, Tags.BINARY_CLASSIFICATION])]
    columns += [ColumnSchema(f"I{i}", dtype="float32", tags=[Tags.CONTINUOUS]) for i in range(1, NUM_NUMBERS + 1)]
    for place, num_ids in enumerate(NUM_IDS, start=1):
        domain = {"domain": {"min": 0, "max": num_ids - 1, "name": f"C{place}"}}
        columns.append(ColumnSchema(f"C{place}", dtype="int32", tags=[Tags.CATEGORICAL], properties=domain))
    return Schema(columns)


def written(folder: Path, num_rows: int) -> list[Path]:
    """Made rows in two files; of a column with R ids, id r comes as often as 1 / (r + 1) says."""
    random, paths = np.random.default_rng(0), []
    for number in range(2):
        size = num_rows // 2
        columns: dict[str, np.ndarray] = {"label": (random.random(size) < 0.25).astype(np.int8)}
        columns |= {f"I{i}": random.standard_normal(size, np.float32) for i in range(1, NUM_NUMBERS + 1)}
        for place, num_ids in enumerate(NUM_IDS, start=1):
            drawn = (num_ids + 1.0) ** random.random(size) - 1
            columns[f"C{place}"] = np.minimum(drawn, num_ids - 1).astype(np.int32)
        paths.append(folder / f"part_{number}.parquet")
        pq.write_table(pa.table(columns), paths[-1])
    return paths


def in_matrices(batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Numbers [N, 13], ids of all columns one after the other, labels [N]."""
    number_NF = torch.stack([batch[f"I{i}"] for i in range(1, NUM_NUMBERS + 1)], dim=1)
    return number_NF, torch.cat([batch[f"C{i}"] for i in range(1, 27)]).long(), batch["label"].float()


def layers(*widths: int) -> nn.Sequential:
    pairs = pairwise(widths)
    return nn.Sequential(*[module for pair in pairs for module in (nn.Linear(*pair), nn.ReLU())])


def endless(epoch: Callable[[int], Any]) -> Iterator[Any]:
    """Whole batches of epoch after epoch; the last batch of each is left out, it is smaller."""
    number = 0
    while True:
        before = None
        for batch in epoch(number):
            if before is not None:
                yield before
            before = batch
        number += 1


if __name__ == "__main__":
    main(*[int(value) for value in sys.argv[1:]] or [500_000, 30, 6, 1])
