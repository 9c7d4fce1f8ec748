"""Do the rankers rank better than LightGBM on the same features and the same split, and how near is the best possible?

Sets: likes of MovieLens 100K (four stars and more), split by time; and the made click world, whose true click
probabilities are known. Systems: DLRM, DCN-v2 and a plain MLP as the product trains them; LightGBM, with ids as
categories and without them (earlier rows are counted and rated in numbers, as of each row's moment, either way);
a factorization machine and a logistic regression. All read the same columns: LightGBM gets lists as one column an
element.

Every system's settings are chosen by log loss on the valid part, out of the same number of trials, with seed 0; the
chosen one is then fitted with each seed and asked about the test part once. Networks stop by the valid part, trees too.
Differences are bootstrapped over users and seeds: a resample draws users, and for each system as many of its seeds as
there are. The settings for the click world are chosen at the smallest of its sizes that is not below TUNE_ROWS.

Prints one JSON line a measurement.
python benchmarks/ranking_quality.py [quick] [movielens] [ROWS ...] [trials=N] [seeds=N] [systems=A,B] [settings=FILE]
A settings file holds by system what an earlier run chose.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import dask

dask.config.set({"dataframe.query-planning": False})

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import scipy.sparse as sp  # noqa: E402
import torch  # noqa: E402
from merlin.schema import Schema, Tags  # noqa: E402

from features.artifact import Artifact, open_artifact, writing  # noqa: E402
from features.impressions_as_of import GROUP  # noqa: E402
from features.list_column import matrix_of  # noqa: E402
from features.logs.click_world_log import ClickWorldLog  # noqa: E402
from features.schema import FIRST_KNOWN, num_categories, select  # noqa: E402
from pipelines import etl_stage  # noqa: E402
from pipelines.config import CascadeConfig, as_document, load_config  # noqa: E402
from ranking.clicks.batches import ClickBatches  # noqa: E402
from ranking.clicks.checks import click_schema, label_name  # noqa: E402
from ranking.clicks.logistic import ClickLogistic  # noqa: E402
from ranking.clicks.metrics import GroupedAuc, RankedLabels, auc, log_losses  # noqa: E402
from ranking.clicks.model import ClickModel  # noqa: E402
from ranking.clicks.ranker import ClickRanker  # noqa: E402
from ranking.clicks.train import predicted, train  # noqa: E402
from ranking.config import ClickConfig, DcnV2Config, NetworkConfig  # noqa: E402

# N rows  U users  L list length  X columns
PARTS = ("train", "valid", "test")
SEEDS, TRIALS, RESAMPLES = 5, 12, 500
TUNE_ROWS, MAX_TREES = 500_000, 3_000
Setting = dict[str, Any]


class Rows:
    """A part as trees and metrics read it, in memory."""

    def __init__(self, etl: Artifact, part: str, schema: Schema) -> None:
        self.paths, self.schema = etl.files(f"examples/{part}/"), schema
        table = pa.concat_tables([pq.read_table(path) for path in self.paths])
        self.num_rows, self.group_N = len(table), table[GROUP].to_numpy()
        self.columns = {
            column.name: matrix_of(table[column.name]) if column.is_list else table[column.name].to_numpy()
            for column in schema
        }
        self.label_N = self.columns[label_name(schema)]

    def batches(self, batch_size: int, seed: int) -> ClickBatches:
        """The part as networks read it."""
        return ClickBatches(self.paths, self.schema, batch_size, seed)


@dataclass(frozen=True, eq=False)
class Set:
    """One log, encoded."""

    name: str
    schema: Schema
    parts: dict[str, Rows]
    truth: dict[str, np.ndarray] = field(default_factory=dict)
    """By part the true probabilities, if they are known."""


@dataclass(frozen=True, eq=False)
class Fit:
    valid_N: np.ndarray
    test_N: np.ndarray
    epochs: int


System = Callable[[Set, Setting, int], Fit]


def network(model: str) -> System:
    """One of the product's rankers, as its training stage makes it."""

    def fit(data: Set, setting: Setting, seed: int) -> Fit:
        config = ClickConfig(**{name: setting[name] for name in setting if name in ClickConfig.__dataclass_fields__})
        own = {name: setting[name] for name in ("embedding_dim", "dropout") if name in setting}
        dcn = DcnV2Config(structure=setting.get("structure", "stacked"))
        kind = cast(Any, model)
        fitted = data.parts["train"].batches(config.batch_size, seed)
        torch.manual_seed(seed)
        ranker = ClickRanker(data.schema, NetworkConfig(model=kind, dcn_v2=dcn, **own), fitted.statistics, config.l2)
        return _trained(data, ranker, fitted, config)

    return fit


def logistic(data: Set, setting: Setting, seed: int) -> Fit:
    rate = setting["learning_rate"]
    config = ClickConfig(
        batch_size=1_024, learning_rate=rate, table_learning_rate=rate, weight_decay=0.0, max_epochs=20
    )
    fitted = data.parts["train"].batches(config.batch_size, seed)
    torch.manual_seed(seed)
    return _trained(data, ClickLogistic(data.schema, fitted.statistics, setting["l2"]), fitted, config)


def _trained(data: Set, model: ClickModel, fitted: ClickBatches, config: ClickConfig) -> Fit:
    held_out, test = (data.parts[part].batches(8_192, 0) for part in ("valid", "test"))
    curve = train(model, fitted, held_out, config, data.name)
    return Fit(predicted(model, held_out)[0], predicted(model, test)[0], curve.best_epoch)


class Trees:
    """LightGBM on columns that the networks read, in memory once."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, str], Any] = {}

    def __call__(self, data: Set, setting: Setting, seed: int) -> Fit:
        import lightgbm

        columns, datasets = self._columns(data, setting["ids"])
        own = {name: value for name, value in setting.items() if name != "ids"}
        rate = own["learning_rate"]
        parameters = {"objective": "binary", "metric": "binary_logloss", "bagging_freq": 1, "num_threads": 1}
        parameters |= {"seed": seed, "verbosity": -1, "feature_pre_filter": False}
        stop = lightgbm.early_stopping(round(40 * 0.1 / min(rate, 0.1)), verbose=False)
        booster = lightgbm.train(parameters | own, datasets[0], MAX_TREES, [datasets[1]], callbacks=[stop])
        valid_N, test_N = (np.asarray(booster.predict(columns[part], num_threads=1)) for part in ("valid", "test"))
        return Fit(valid_N, test_N, booster.best_iteration)

    def _columns(self, data: Set, ids: str) -> tuple[dict[str, Any], tuple[Any, Any]]:
        import lightgbm

        key = (id(data), ids)
        if key not in self._made:
            self._made = {one: made for one, made in self._made.items() if one[0] == id(data)}
            columns = {part: _matrix(rows, ids) for part, rows in data.parts.items()}
            categorical = _num_plain(data.schema, ids)
            options = {"categorical_feature": categorical, "free_raw_data": False}
            parameters = {"feature_pre_filter": False, "verbosity": -1, "num_threads": 1}
            fitted, held_out = data.parts["train"], data.parts["valid"]
            first = lightgbm.Dataset(columns["train"], fitted.label_N, params=parameters, **options)
            second = lightgbm.Dataset(columns["valid"], held_out.label_N, reference=first, params=parameters, **options)
            self._made[key] = columns, (first, second)
        return self._made[key]


IDS = ("user_id", "item_id")
"""Left out with ids = "none": numbers as of the row's moment stand for them."""


def _matrix(rows: Rows, ids: str) -> Any:
    """[N, X] numbers, categories, and a column for each element of each list: dense, or sparse where lists are long."""
    numbers = select(rows.schema, Tags.CONTINUOUS).column_names
    plain = [column.name for column in _categories(rows.schema, ids)]
    blocks = [np.stack([rows.columns[name] for name in [*numbers, *plain]], axis=1).astype(np.float32)]
    for column in select(rows.schema, Tags.CATEGORICAL):
        if column.is_list and ids != "no lists":
            blocks.append(_elements(rows.columns[column.name], num_categories(column)))
    if all(isinstance(block, np.ndarray) for block in blocks):
        return np.concatenate(blocks, axis=1)
    return sp.hstack([sp.csr_matrix(block) for block in blocks], format="csr")


def _elements(id_NL: np.ndarray, num_ids: int) -> Any:
    row_E, place_E = np.nonzero(id_NL >= FIRST_KNOWN)
    element_E = id_NL[row_E, place_E] - FIRST_KNOWN
    ones_E = np.ones(len(row_E), np.float32)
    counts = sp.csr_matrix((ones_E, (row_E, element_E)), (len(id_NL), num_ids - FIRST_KNOWN))
    return counts.toarray() if num_ids < 64 else counts


def _categories(schema: Schema, ids: str) -> list[Any]:
    plain = [column for column in select(schema, Tags.CATEGORICAL) if not column.is_list]
    return [column for column in plain if ids == "categories" or column.name not in IDS]


def _num_plain(schema: Schema, ids: str) -> list[int]:
    first = len(select(schema, Tags.CONTINUOUS).column_names)
    return list(range(first, first + len(_categories(schema, ids))))


# Settings -------------------------------------------------------------------------------------------------------------


def network_trials(num: int) -> list[Setting]:
    """The middle of the space, then drawn settings."""
    rng = np.random.default_rng(0)
    middle = {"batch_size": 512, "learning_rate": 1e-3, "table_learning_rate": 0.03, "l2": 20.0, "embedding_dim": 16}
    trials = [middle | {"dropout": 0.1, "max_epochs": 12}]
    while len(trials) < num:
        trials.append(
            {
                "batch_size": int(rng.choice([256, 512, 1_024])),
                "learning_rate": float(10 ** rng.uniform(-3.5, -2.7)),
                "table_learning_rate": float(10 ** rng.uniform(-2.0, -1.0)),
                "l2": float(10 ** rng.uniform(0, 2.3)),
                "embedding_dim": int(rng.choice([8, 16, 32])),
                "dropout": float(rng.choice([0.0, 0.1, 0.3])),
                "structure": str(rng.choice(["stacked", "parallel"])),
                "max_epochs": 12,
            }
        )
    return trials


def tree_trials(num: int) -> list[Setting]:
    """LightGBM's own settings with each way to read ids, then drawn ones, the last with smaller steps."""
    rng = np.random.default_rng(0)
    ways = ("categories", "none", "no lists")
    own = {"learning_rate": 0.1, "num_leaves": 31, "min_data_in_leaf": 20}
    trials: list[Setting] = [{"ids": ids} | own for ids in ways]
    while len(trials) < num:
        trials.append(
            {
                "ids": ways[len(trials) % 3] if len(trials) < num // 2 else "none",
                "learning_rate": 0.1 if len(trials) < num - 3 else 0.04,
                "num_leaves": int(2 ** rng.uniform(3, 7.5)),
                "min_data_in_leaf": int(10 ** rng.uniform(1.3, 2.8)),
                "lambda_l2": float(10 ** rng.uniform(-2, 2)),
                "feature_fraction": float(rng.uniform(0.3, 1)),
                "bagging_fraction": float(rng.uniform(0.6, 1)),
                "cat_smooth": float(10 ** rng.uniform(0.5, 2.3)),
                "cat_l2": float(10 ** rng.uniform(0.5, 2.3)),
            }
        )
    return trials


def logistic_trials(num: int) -> list[Setting]:
    grid = [{"learning_rate": rate, "l2": l2} for rate in (0.03, 0.01, 0.1) for l2 in (10.0, 1.0, 0.1, 100.0)]
    return grid[:num]


TREES = Trees()
SYSTEMS: dict[str, tuple[System, Callable[[int], list[Setting]]]] = {
    "LightGBM": (TREES, tree_trials),
    "DLRM": (network("dlrm"), network_trials),
    "DCN-v2": (network("dcn_v2"), network_trials),
    "MLP": (network("mlp"), network_trials),
    "FM": (network("fm"), network_trials),
    "logistic regression": (logistic, logistic_trials),
}


# The study ------------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str]) -> None:
    torch.set_num_threads(1)
    options = dict(word.split("=", 1) for word in arguments if "=" in word)
    quick, sizes = "quick" in arguments, [int(word) for word in arguments if word.isdecimal()]
    all_sets = not sizes and "movielens" not in arguments
    plan = Plan(
        num_trials=int(options.get("trials", 2 if quick else TRIALS)),
        num_seeds=int(options.get("seeds", 2 if quick else SEEDS)),
        systems=tuple(options["systems"].split(",")) if "systems" in options else tuple(SYSTEMS),
        chosen=json.loads(Path(options["settings"]).read_text()) if "settings" in options else {},
    )
    with tempfile.TemporaryDirectory() as folder:
        if all_sets or "movielens" in arguments:
            study(movielens(Path(folder) / "movielens"), plan)
        if all_sets:
            sizes = [20_000] if quick else [100_000, 500_000, 2_000_000]
        tuned_at = min((size for size in sizes if size >= TUNE_ROWS), default=max(sizes, default=0))
        for size in sorted(sizes, key=lambda size: size != tuned_at):
            plan = replace(plan, chosen=study(click_world(Path(folder) / str(size), size), plan))


@dataclass(frozen=True)
class Plan:
    """What is fitted."""

    num_trials: int
    num_seeds: int
    systems: Sequence[str]
    chosen: dict[str, Setting]
    """Settings chosen before, by system."""


def study(data: Set, plan: Plan) -> dict[str, Setting]:
    """Choose settings unless they are given, fit with every seed, print. Returns the settings."""
    best, num_seeds = dict(plan.chosen), plan.num_seeds
    tests: dict[str, list[np.ndarray]] = {}
    valid, test = data.parts["valid"], data.parts["test"]
    for name in plan.systems:
        fit, trials = SYSTEMS[name]
        begun = time.monotonic()
        if name not in best:
            losses = []
            for setting in trials(plan.num_trials):
                losses.append((float(log_losses(fit(data, setting, 0).valid_N, valid.label_N).mean()), setting))
            best[name] = min(losses, key=lambda one: one[0])[1]
        tuned = time.monotonic()
        fits = [fit(data, best[name], seed) for seed in range(num_seeds)]
        tests[name] = [one.test_N for one in fits]
        aucs = [auc(one.test_N, test.label_N) for one in fits]
        say(
            data,
            f"{name}: test AUC",
            float(np.mean(aucs)),
            unit="AUC",
            deviation=_deviation(aucs),
            log_loss=round(float(np.mean([log_losses(one.test_N, test.label_N).mean() for one in fits])), 5),
            gauc=round(float(np.mean([_grouped(test, one.test_N) for one in fits])), 5),
            valid_log_loss=round(float(np.mean([log_losses(one.valid_N, valid.label_N).mean() for one in fits])), 5),
            valid_auc=round(float(np.mean([auc(one.valid_N, valid.label_N) for one in fits])), 5),
            epochs=[one.epochs for one in fits],
            setting=best[name],
            tuning_seconds=round(tuned - begun),
            fit_seconds=round((time.monotonic() - tuned) / num_seeds),
            runs=num_seeds,
        )
    for name in ("DLRM", "DCN-v2", "MLP"):
        if name not in tests or "LightGBM" not in tests:
            continue
        difference, low, high = compared(test, tests[name], tests["LightGBM"])
        peer = float(np.mean([auc(one, test.label_N) for one in tests["LightGBM"]]))
        interval = [round(low, 5), round(high, 5)]
        more = {"peer": round(peer, 5), "difference": round(difference, 5), "interval_95": interval}
        say(
            data, f"{name} minus LightGBM", peer + difference, unit="AUC", goal=0.0, met=low > 0, runs=num_seeds, **more
        )
    if data.truth:
        _say_gaps(data, tests, num_seeds)
    return best


def _say_gaps(data: Set, tests: dict[str, list[np.ndarray]], num_seeds: int) -> None:
    test = data.parts["test"]
    optimum = auc(data.truth["test"], test.label_N)
    for name, scores in tests.items():
        gaps = [optimum - auc(one, test.label_N) for one in scores]
        most = {"goal": 0.005, "met": float(np.mean(gaps)) <= 0.005} if name in ("DLRM", "DCN-v2") else {}
        more = {"peer": round(optimum, 5), "deviation": _deviation(gaps), **most}
        say(data, f"{name}: AUC below the true probability's", float(np.mean(gaps)), unit="AUC", runs=num_seeds, **more)


def compared(test: Rows, ours: list[np.ndarray], theirs: list[np.ndarray]) -> tuple[float, float, float]:
    """Mean difference of AUC over seeds, and its 95% interval over users and seeds."""
    rng = np.random.default_rng(0)
    _, user_N = np.unique(test.group_N, return_inverse=True)
    num_users = int(user_N.max()) + 1
    ranked = [[RankedLabels(score_N, test.label_N) for score_N in scores] for scores in (ours, theirs)]
    found = []
    for _ in range(RESAMPLES):
        count_N = np.bincount(rng.integers(0, num_users, num_users), minlength=num_users)[user_N]
        means = []
        for systems in ranked:
            drawn, times = np.unique(rng.integers(0, len(systems), len(systems)), return_counts=True)
            means.append(np.average([systems[seed].auc(count_N) for seed in drawn], weights=times))
        found.append(means[0] - means[1])
    mean = np.mean([one.auc() for one in ranked[0]]) - np.mean([one.auc() for one in ranked[1]])
    low, high = np.quantile(found, [0.025, 0.975])
    return float(mean), float(low), float(high)


def _deviation(values: list[float]) -> float | None:
    """Over seeds; None of one."""
    return round(float(np.std(values, ddof=1)), 5) if len(values) > 1 else None


def _grouped(test: Rows, score_N: np.ndarray) -> float:
    _, user_N = np.unique(test.group_N, return_inverse=True)
    return GroupedAuc(score_N, test.label_N, user_N).value()


def movielens(folder: Path) -> Set:
    config = load_config(Path(__file__).resolve().parents[1] / "pipelines" / "configs" / "movielens-likes.toml")
    return _set("MovieLens 100K likes", folder, config)


def click_world(folder: Path, num_rows: int) -> Set:
    options = ["--data.adapter", "synthetic_clicks", "--data.synthetic-clicks.num-impressions", str(num_rows)]
    config = load_config(None, options)
    truth = ClickWorldLog(config.data.synthetic_clicks, config.etl.split).true_probability()
    return replace(_set(f"click world, {num_rows} rows", folder, config), truth=truth)


def _set(name: str, folder: Path, config: CascadeConfig) -> Set:
    with writing(folder, "etl", as_document(config.etl), config.seed, {}) as writer:
        etl_stage.run(config, writer, folder, "threads:1", print)
    etl = open_artifact(folder, "etl")
    schema = click_schema(etl)
    return Set(name, schema, {part: Rows(etl, part, schema) for part in PARTS})


def say(data: Set, question: str, ours: float, **more: Any) -> None:
    line = {"benchmark": "ranking_quality", "set": data.name, "question": question, "ours": round(ours, 5)}
    line |= {"better": "lower" if "below" in question else "higher", "size": data.parts["train"].num_rows} | more
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    print(json.dumps(line | {"cores": os.cpu_count(), "commit": commit}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
