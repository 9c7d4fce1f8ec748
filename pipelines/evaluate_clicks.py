"""Quality of a click model: what the exported model says of the test impressions, beside baselines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ensemble.onnx_model import OnnxModel
from features.artifact import Artifact, open_artifact
from pipelines.click_baselines import ClickBaseline, logistic_regression, mean_click_rate
from pipelines.click_bootstrap import Interval, Measured, bootstrapped, intervals
from pipelines.click_table import print_click_report
from pipelines.evaluate import EvaluationConfig
from pipelines.report_file import write_report
from ranking.clicks.batches import ClickBatches
from ranking.clicks.checks import click_schema
from ranking.config import RankingConfig

# N test impressions

PARTS = ("train", "valid", "test")
PROTOCOL = (
    "Models are fitted on the train part. When to stop, and the baseline's penalty and step size, are chosen by the "
    "log loss of the valid part. The test part is scored by the exported model. Intervals are bootstrapped over "
    "impressions, differences paired by impression. Normalised entropy is the log loss over that of always saying the "
    "test part's own click rate; calibration is the clicks expected over the clicks that came."
)
_BATCH_ROWS = 8_192


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
        out: folder for `evaluation.json`.
        seed: of the baselines and of the bootstrap.
    Returns: what `evaluation.json` holds.
    Raises: ArtifactError if an artifact is missing, damaged or foreign; ClickDataError if a value of the examples
        cannot be used.
    """
    torch.set_num_threads(ranking.num_threads)
    etl = open_artifact(etl_dir, "etl")
    trained = open_artifact(ranking_dir, "ranking", inputs=[etl])
    schema = click_schema(etl)
    sizes = {"train": ranking.clicks.batch_size, "valid": _BATCH_ROWS, "test": _BATCH_ROWS}
    parts = {name: ClickBatches(etl.files(f"examples/{name}/"), schema, sizes[name], seed) for name in PARTS}
    label_N, probability_N = _exported(trained, parts["test"])
    fitted, held_out, test = (parts[name] for name in PARTS)
    baselines = {
        "mean_click_rate": mean_click_rate(fitted, test),
        "logistic_regression": logistic_regression(schema, ranking.clicks, fitted, held_out, test, seed),
    }
    systems = {"cascade": Measured(probability_N, label_N)}
    systems |= {name: Measured(baseline.probability_N, label_N) for name, baseline in baselines.items()}
    report = {
        "protocol": _protocol(etl, trained, parts, config, seed),
        **_compared(systems, parts["test"].num_rows, config, seed),
        "baselines": {name: _described(baseline) for name, baseline in baselines.items()},
    }
    report = write_report(report, out / "evaluation.json")
    print_click_report(report)
    return report


def _exported(trained: Artifact, test: ClickBatches) -> tuple[np.ndarray, np.ndarray]:
    """[N] labels and [N] probabilities."""
    model = OnnxModel(trained.file("ranker.onnx"))
    rows = []
    for batch in test.in_order():
        columns = {name: batch[name].numpy() for name in [*model.inputs, test.label]}
        rows.append((columns[test.label], model.run(columns)))
    labels, probabilities = zip(*rows, strict=True)
    return np.concatenate(labels), np.concatenate(probabilities)


def _compared(systems: dict[str, Measured], num_rows: int, config: EvaluationConfig, seed: int) -> dict[str, Any]:
    value = {name: measured.metrics() for name, measured in systems.items()}
    sample = bootstrapped(systems, num_rows, config.num_bootstrap, seed)
    others = [name for name in systems if name != "cascade"]
    differences: dict[str, dict[str, Interval]] = {
        name: intervals(value["cascade"] - value[name], sample["cascade"] - sample[name], config.level)
        for name in others
    }
    own = {name: intervals(value[name], sample[name], config.level) for name in systems}
    return {"systems": own, "cascade_minus": differences}


def _described(baseline: ClickBaseline) -> dict[str, Any]:
    return {"settings": baseline.settings, "trials": list(baseline.trials), "seconds": baseline.seconds}


def _protocol(
    etl: Artifact, trained: Artifact, parts: dict[str, ClickBatches], config: EvaluationConfig, seed: int
) -> dict[str, Any]:
    return {
        "description": PROTOCOL,
        "etl_content_hash": etl.content_hash,
        "ranking_content_hash": trained.content_hash,
        "num_bootstrap": config.num_bootstrap,
        "level": config.level,
        "seed": seed,
        "num_impressions": {name: part.num_rows for name, part in parts.items()},
        "click_rate": {name: part.statistics.click_rate for name, part in parts.items()},
    }
