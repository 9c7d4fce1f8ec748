"""Quality of a click model: what the exported model says of the test impressions, beside tuned baselines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from scipy.special import expit

from ensemble.onnx_model import OnnxModel
from features.artifact import Artifact, open_artifact
from features.errors import CascadeError
from pipelines.click_baselines import (
    ClickBaseline,
    factorization_machine,
    lightgbm_trees,
    logistic_regression,
    mean_click_rate,
)
from pipelines.click_bootstrap import Interval, Measured, bootstrapped, intervals
from pipelines.click_table import print_click_report
from pipelines.evaluation_config import EvaluationConfig
from pipelines.evaluation_values import write_impression_values
from pipelines.reliability_plot import write_reliability_plot
from pipelines.report_file import write_report
from ranking.clicks.batches import ClickBatches
from ranking.clicks.checks import click_schema
from ranking.clicks.metrics import MetricInputError
from ranking.clicks.train import LOGIT, PROBABILITY
from ranking.config import RankingConfig
from ranking.reliability import NUM_BINS

# N test impressions  U groups of impressions, such as users

PARTS = ("train", "valid", "test")
PROTOCOL = (
    "Models are fitted on the train part. When to stop, the calibration of the model's probabilities and the settings "
    "of the baselines are chosen on the valid part, the last by its log loss. The test part is scored by the exported "
    "model. Intervals are bootstrapped over {drawn}, differences paired. gauc is the AUC within each group, weighted "
    "by its impressions. Normalised entropy is the log loss over that of always saying the test part's own click rate; "
    "calibration is the clicks expected over the clicks that came; the calibration error is the mean gap between "
    "probability and click rate over {num_bins} bins of equally many impressions, of which chance alone would give a "
    "calibrated model calibration_error_by_chance."
)
PLOT = "reliability.svg"
_BATCH_ROWS = 8_192


class ClickEvaluationError(CascadeError, ValueError):
    """Something that cannot be measured on the test part."""


def evaluate_clicks(
    etl_dir: Path,
    ranking_dir: Path,
    config: EvaluationConfig,
    ranking: RankingConfig,
    *,
    out: Path,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure the exported click model on the test part, and fit the baselines beside it.

    Args:
        etl_dir: the etl artifact of an impression log.
        ranking_dir: the ranking artifact trained from it.
        config: num_bootstrap and level apply.
        ranking: `num_threads`, `clicks.batch_size` and `clicks.patience` apply, to the baselines' training.
        out: folder for `evaluation.json`, `evaluation_impressions.parquet` (what Cascade said) and `reliability.svg`.
        seed: of the baselines and of the bootstrap.
    Returns: what `evaluation.json` holds.
    Raises: ArtifactError if an artifact is missing, damaged or foreign; ClickDataError if a value of the examples
        cannot be used; ClickEvaluationError if a model says what is no probability.
    """
    torch.set_num_threads(ranking.num_threads)
    etl = open_artifact(etl_dir, "etl")
    trained = open_artifact(ranking_dir, "ranking", inputs=[etl])
    schema = click_schema(etl)
    sizes = {"train": ranking.clicks.batch_size, "valid": _BATCH_ROWS, "test": _BATCH_ROWS}
    parts = {name: ClickBatches(etl.files(f"examples/{name}/"), schema, sizes[name], seed) for name in PARTS}
    fitted, held_out, test = (parts[name] for name in PARTS)
    label_N, group_N, said = labels_of(test), groups_of(etl), _said_by_model(trained, test)
    given = schema, ranking, fitted, held_out, test, seed
    baselines = {
        "mean_click_rate": mean_click_rate(fitted, test),
        "logistic_regression": logistic_regression(*given),
        "factorization_machine": factorization_machine(*given),
        "lightgbm_trees": lightgbm_trees(*given),
    }
    said |= {name: baseline.probability_N for name, baseline in baselines.items() if not baseline.skipped}
    systems = {name: measured(name, probability_N, label_N, group_N) for name, probability_N in said.items()}
    report = {
        "protocol": _protocol(etl, trained, parts, config, seed, group_N),
        **_compared(systems, group_N, test.num_rows, config, seed),
        "calibration_error_by_chance": {name: one.bins.error_if_calibrated() for name, one in systems.items()},
        "reliability": {name: _curve(one) for name, one in systems.items()},
        "calibration": trained.metrics["calibration"],
        "baselines": {name: _described(baseline) for name, baseline in baselines.items()},
    }
    write_impression_values(label_N, group_N, said["cascade"], out)
    report = write_report(report, out / "evaluation.json")
    write_reliability_plot(report, out / PLOT)
    print_click_report(report, out / PLOT)
    return report


def _said_by_model(trained: Artifact, test: ClickBatches) -> dict[str, np.ndarray]:
    """[N] probabilities of the exported model, and those that it had before calibration, if there is one."""
    path = trained.file("ranker.onnx")
    said = {"cascade": said_by(OnnxModel(path, PROBABILITY), test)}
    if trained.metrics["calibration"]["method"] != "none":
        said["cascade_uncalibrated"] = expit(said_by(OnnxModel(path, LOGIT), test))
    return said


def said_by(model: OnnxModel, test: ClickBatches) -> np.ndarray:
    """[N] what an exported model says of each row."""
    return np.concatenate(
        [model.run({name: batch[name].numpy() for name in model.inputs}) for batch in test.in_order()]
    )


def labels_of(batches: ClickBatches) -> np.ndarray:
    """[N] 0 or 1."""
    return np.concatenate([batch[batches.label].numpy() for batch in batches.in_order()])


def groups_of(etl: Artifact) -> np.ndarray | None:
    """[N] 0..U - 1 whose impression each of the test part is, if the etl artifact knows."""
    if not (group := etl.metrics.get("group")):
        return None
    files = etl.files("examples/test/")
    column = pa.concat_tables([pq.read_table(path, columns=[group["column"]]) for path in files])[group["column"]]
    return np.unique(column.to_numpy(), return_inverse=True)[1]


def measured(name: str, probability_N: np.ndarray, label_N: np.ndarray, group_N: np.ndarray | None) -> Measured:
    """Raises: ClickEvaluationError, which names the system."""
    try:
        return Measured(probability_N, label_N, group_N)
    except MetricInputError as error:
        raise ClickEvaluationError(f"what {name} says of the test part cannot be measured: {error}") from error


def _compared(
    systems: Mapping[str, Measured],
    group_N: np.ndarray | None,
    num_rows: int,
    config: EvaluationConfig,
    seed: int,
) -> dict[str, Any]:
    value = {name: one.metrics() for name, one in systems.items()}
    sample = bootstrapped(systems, num_rows, config.num_bootstrap, seed, group_N)
    others = [name for name in systems if name != "cascade"]
    differences: dict[str, dict[str, Interval]] = {
        name: intervals(value["cascade"] - value[name], sample["cascade"] - sample[name], config.level)
        for name in others
    }
    own = {name: intervals(value[name], sample[name], config.level, lowest=0.0) for name in systems}
    return {"systems": own, "cascade_minus": differences}


def _curve(measured: Measured) -> dict[str, list[float]]:
    curve = measured.bins.curve()
    return {
        "num_impressions": curve.num_rows_B.tolist(),
        "probability": curve.probability_B.tolist(),
        "click_rate": curve.click_rate_B.tolist(),
        "low": curve.low_B.tolist(),
        "high": curve.high_B.tolist(),
    }


def _described(baseline: ClickBaseline) -> dict[str, Any]:
    return {
        "skipped": baseline.skipped,
        "settings": dict(baseline.settings),
        "trials": [dict(trial) for trial in baseline.trials],
        "seconds": baseline.seconds,
    }


def _protocol(
    etl: Artifact,
    trained: Artifact,
    parts: dict[str, ClickBatches],
    config: EvaluationConfig,
    seed: int,
    group_N: np.ndarray | None,
) -> dict[str, Any]:
    group = None if group_N is None else {"of": etl.metrics["group"]["of"], "num_groups": int(group_N.max()) + 1}
    drawn = "impressions" if group is None else f"values of {group['of']}, with all their impressions"
    return {
        "description": PROTOCOL.format(drawn=drawn, num_bins=NUM_BINS),
        "etl_content_hash": etl.content_hash,
        "ranking_content_hash": trained.content_hash,
        "num_bootstrap": config.num_bootstrap,
        "level": config.level,
        "seed": seed,
        "num_impressions": {name: part.num_rows for name, part in parts.items()},
        "click_rate": {name: part.statistics.click_rate for name, part in parts.items()},
        "group": group,
    }
