"""What does a request of 200 candidates take the ranker, in which form, and what does a smaller form cost in AUC?

One user, 200 candidates, one thread of onnxruntime. 26 categories, half of them the user's, one of those a history of
50 items, and 13 numbers, in two geometries: small (D = 16, 128-64, the default) and published (D = 128, 512-256). The
forms are called in turn; the median of the thread's own processor time counts. The AUC is that of a click model
of the published geometry on rows that it was not trained on, in a made world with 26 categories.

Prints one JSON line a question. python benchmarks/ranking_serving.py [REQUESTS ROWS]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import dask

dask.config.set({"dataframe.query-planning": False})

import numpy as np  # noqa: E402
import onnx  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import torch  # noqa: E402
from merlin.schema import ColumnSchema, Schema, Tags  # noqa: E402

from ensemble.onnx_model import OnnxModel  # noqa: E402
from features.batches import FeatureTables  # noqa: E402
from features.onnx_compact import input_ranges, load, table_bytes, with_compact_tables, with_int8_layers  # noqa: E402
from features.onnx_export import export_onnx  # noqa: E402
from ranking.clicks.batches import ClickBatches  # noqa: E402
from ranking.clicks.metrics import auc  # noqa: E402
from ranking.clicks.ranker import ClickRanker  # noqa: E402
from ranking.clicks.train import export_clicks, train  # noqa: E402
from ranking.config import ClickConfig, DcnV2Config, DlrmConfig, MlpConfig, NetworkConfig  # noqa: E402
from ranking.export import example_batch, export_ranker  # noqa: E402
from ranking.pair_features import is_per_candidate, ranker_schema  # noqa: E402
from ranking.ranker import Ranker  # noqa: E402

NUM_CANDIDATES = 200
NUM_CATEGORIES = 26
NUM_IDS = 2_000
HISTORY_LENGTH = 50
SOURCES = ["two_tower"]
SMALL = NetworkConfig()
PUBLISHED = NetworkConfig(
    embedding_dim=128,
    dlrm=DlrmConfig(bottom_units=(512, 256), top_units=(512, 256)),
    dcn_v2=DcnV2Config(deep_units=(512, 256)),
    mlp=MlpConfig(units=(512, 256)),
)
GEOMETRIES = {"small": SMALL, "published": PUBLISHED}
MODELS = ("dlrm", "dcn_v2", "mlp", "fm")
GOAL_INT8, GOAL_AUC = 1.5, 5e-4


def main(num_requests: int, num_rows: int) -> None:
    torch.set_num_threads(1)
    for size, geometry in GEOMETRIES.items():
        for name in MODELS:
            forms, ms = timed(replace(geometry, model=cast(Any, name)), num_requests)
            what = f"{name}, {size}: a request of {NUM_CANDIDATES} candidates"
            say(
                f"{what}, user side once against every pair by itself",
                ms["shared"],
                ms["plain"],
                "ms",
                1.0,
                num_requests,
            )
            for form in ("int8", "int8 and int8 tables"):
                faster = ms["shared"] / ms[form]
                say(f"{what}, fp32 against {form}", ms["shared"], ms[form], "ms", GOAL_INT8, num_requests, faster)
            for form in ("fp16 tables", "bf16 tables", "int8 tables"):
                say(f"{what}, {form} against fp32", ms[form], ms["shared"], "ms", None, num_requests)
            for form in ("int8", "fp16 tables", "int8 tables", "int8 and int8 tables"):
                ours, peer = (table_bytes(forms[one]) / 1e6 for one in (form, "shared"))
                say(f"{name}, {size}: weights, {form} against fp32", ours, peer, "MB", None, num_requests)
    for name in MODELS[:2]:
        lost = auc_lost(replace(PUBLISHED, model=cast(Any, name)), num_rows)
        reached = lost.pop("fp32")
        for form, value in lost.items():
            question = f"{name}, published: AUC of a click model, {form} against fp32 (ratio: the loss)"
            say(question, value, reached, "AUC", GOAL_AUC, num_rows, reached - value)


def schema() -> Schema:
    """Features of user and item in halves."""
    columns = []
    for number in range(NUM_CATEGORIES):
        name, tag = (f"user_c{number}", Tags.USER) if number % 2 else (f"item_c{number}", Tags.ITEM)
        told: dict[str, Any] = {"properties": {"domain": {"min": 0, "max": NUM_IDS - 1, "name": name}}}
        if number == 1:
            told |= {"dims": (None, HISTORY_LENGTH), "is_list": True}
        columns.append(ColumnSchema(name, dtype="int64", tags=[Tags.CATEGORICAL, tag], **told))
    for number in range(6):
        name, tag = (f"user_n{number}", Tags.USER) if number % 2 else (f"item_n{number}", Tags.ITEM)
        columns.append(ColumnSchema(name, dtype="float32", tags=[Tags.CONTINUOUS, tag]))
    return Schema(columns)


def timed(config: NetworkConfig, num_requests: int) -> tuple[dict[str, onnx.ModelProto], dict[str, float]]:
    """Every form of a ranker with random weights, and its median milliseconds of processor time."""
    torch.manual_seed(0)
    etl_schema = schema()
    model = Ranker(ranker_schema(etl_schema, SOURCES), config).eval()
    torch.nn.init.normal_(model.output.weight, std=0.1)
    feed, calibration = (
        {name: values.numpy() for name, values in example_batch(etl_schema, SOURCES, users, NUM_CANDIDATES).items()}
        for users in (1, 8)
    )
    with tempfile.TemporaryDirectory(prefix="cascade-bench-") as folder:
        path = Path(folder) / "ranker.onnx"
        axes = {one: {0: "users", 1: "candidates"} if is_per_candidate(one) else {0: "users"} for one in model.inputs}
        example = example_batch(etl_schema, SOURCES)
        export_onnx(model, model.score_candidates, example, axes, "score", path)
        plain = load(path)
        export_ranker(model, cast(FeatureTables, SimpleNamespace(schema=etl_schema)), SOURCES, path)
        forms = {"plain": plain, "shared": load(path)} | compact_forms(load(path), [calibration])
        sessions = {form: opened(one, Path(folder)) for form, one in forms.items()}
    spent: dict[str, list[float]] = {form: [] for form in forms}
    for _ in range(5 + num_requests):
        for form, session in sessions.items():
            begun = time.thread_time()  # the model has one thread, this one; what other processes do is left out
            session.run(feed, NUM_CANDIDATES)
            spent[form].append((time.thread_time() - begun) * 1e3)
    return forms, {form: float(np.median(times[5:])) for form, times in spent.items()}


def compact_forms(trained: onnx.ModelProto, calibration: list[dict[str, np.ndarray]]) -> dict[str, onnx.ModelProto]:
    int8 = with_int8_layers(trained, input_ranges(trained, calibration))
    tables = {f"{form} tables": with_compact_tables(trained, form) for form in ("fp16", "bf16", "int8")}
    return {"int8": int8, "int8 and int8 tables": with_compact_tables(int8, "int8")} | tables


def opened(model: onnx.ModelProto, folder: Path) -> OnnxModel:
    path = folder / "form.onnx"
    onnx.save(model, str(path))
    return OnnxModel(path)


def auc_lost(config: NetworkConfig, num_rows: int) -> dict[str, float]:
    """AUC on held-out rows, of the trained model and of its forms."""
    with tempfile.TemporaryDirectory(prefix="cascade-bench-") as folder:
        click_schema, paths = click_world(Path(folder), num_rows)
        fitted, valid, test = (
            ClickBatches([paths[part]], click_schema, 1_024, 0) for part in ("train", "valid", "test")
        )
        torch.manual_seed(0)
        settings = ClickConfig(batch_size=1_024, max_epochs=3, patience=1)
        model = ClickRanker(click_schema, config, fitted.statistics, settings.l2)
        train(model, fitted, valid, settings, "ranking")
        export_clicks(model, Path(folder) / "ranker.onnx")
        trained = load(Path(folder) / "ranker.onnx")
        inputs = [value.name for value in trained.graph.input]
        feeds = [{name: batch[name].numpy() for name in inputs} for batch in fitted.in_order()]
        forms = {"fp32": trained} | compact_forms(trained, feeds[:16])
        rows = [{name: batch[name].numpy() for name in [*inputs, test.label]} for batch in test.in_order()]
        label_N = np.concatenate([row[test.label] for row in rows])
        sessions = {form: opened(one, Path(folder)) for form, one in forms.items()}
        return {form: auc(np.concatenate([one.run(row) for row in rows]), label_N) for form, one in sessions.items()}


def click_world(folder: Path, num_rows: int) -> tuple[Schema, dict[str, Path]]:
    """Rows with 26 categories of heavy tails and 13 numbers; clicks follow weights of ids, products of their hidden
    vectors, and numbers."""
    random = np.random.default_rng(0)
    hidden = random.normal(size=(NUM_CATEGORIES, NUM_IDS, 4)) * 0.35
    weight = random.normal(size=(NUM_CATEGORIES, NUM_IDS)) * 0.2
    numbers = [f"I{number}" for number in range(13)]
    categories = [f"C{number}" for number in range(NUM_CATEGORIES)]
    columns = [ColumnSchema("label", dtype="int8", tags=[Tags.TARGET])]
    columns += [ColumnSchema(name, dtype="float32", tags=[Tags.CONTINUOUS]) for name in numbers]
    for name in categories:
        domain = {"min": 0, "max": NUM_IDS - 1, "name": name}
        columns.append(ColumnSchema(name, dtype="int32", tags=[Tags.CATEGORICAL], properties={"domain": domain}))
    paths = {}
    for part, share in (("train", 0.7), ("valid", 0.1), ("test", 0.2)):
        size = int(num_rows * share)
        ids = np.minimum(random.zipf(1.3, (size, NUM_CATEGORIES)), NUM_IDS) - 1
        number_NF = random.normal(size=(size, len(numbers))).astype(np.float32)
        place = np.arange(NUM_CATEGORIES)
        vector = hidden[place, ids]
        product = (vector.sum(1) ** 2 - (vector**2).sum(1)).sum(1) / 2
        logit = -1.2 + weight[place, ids].sum(1) + 0.3 * product + number_NF[:, :4] @ np.array([0.4, -0.3, 0.2, 0.1])
        label = (random.random(size) < 1 / (1 + np.exp(-logit))).astype(np.int8)
        table = {"label": label} | {name: number_NF[:, f] for f, name in enumerate(numbers)}
        table |= {name: ids[:, c].astype(np.int32) for c, name in enumerate(categories)}
        paths[part] = folder / f"{part}.parquet"
        pq.write_table(pa.table(table), paths[part])
    return Schema(columns), paths


def say(
    question: str, ours: float, peer: float, unit: str, goal: float | None, size: int, ratio: float | None = None
) -> None:
    """`ratio` is given where it is not ours to peer: the speed-up, of which more is better, and the loss of AUC."""
    better = "higher" if unit == "ms" and ratio is not None else "lower"
    value = ours / peer if ratio is None else ratio
    line = {"benchmark": "ranking_serving", "question": question, "ours": round(ours, 5), "peer": round(peer, 5)}
    line |= {"unit": unit, "ratio": round(value, 5), "goal": goal, "better": better}
    met = None if goal is None else value >= goal if better == "higher" else value <= goal
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    line |= {"met": met, "size": size, "runs": size if unit == "ms" else 1}
    print(json.dumps(line | {"cores": os.cpu_count(), "commit": commit}), flush=True)


if __name__ == "__main__":
    main(*[int(value) for value in sys.argv[1:]] or [200, 100_000])
