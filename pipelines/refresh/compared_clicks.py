"""The new click model and the live one, asked about the same impressions of the new run's test part."""

# N test impressions  U groups of impressions, such as users

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ensemble.onnx_model import OnnxModel
from features.artifact import open_artifact
from features.impressions import test_rows_as_read_by
from pipelines.click_bootstrap import METRICS, bootstrapped, intervals
from pipelines.config import CascadeConfig
from pipelines.evaluate_clicks import groups_of, labels_of, measured, said_by
from ranking.clicks.batches import ClickBatches
from ranking.clicks.checks import click_schema
from ranking.clicks.train import PROBABILITY

NEW, LIVE = "new", "live"
_HIGHER_IS_BETTER = {"auc": True, "gauc": True, "log_loss": False}
_BATCH_ROWS = 8_192


def compared_clicks(run: Path, out: Path, config: CascadeConfig) -> dict[str, Any]:
    """Measure both exported models on the new run's test part.

    The live one reads the rows through its own features: what came since is unseen to it.

    Returns: `quality`: metric -> both values and the paired difference new - live with its interval; `calibration`: of
        both, expected clicks over those that came; `num_impressions`.
    Raises: ClickEvaluationError if a model says what is no probability.
    """
    etl, live_etl = (open_artifact(one / "etl", "etl") for one in (out, run))
    if (until := live_etl.metrics.get("test_from", 0)) > (begin := etl.metrics.get("test_from", until)):
        return {"unmeasured": dict.fromkeys(("quality", "calibration"), _split_otherwise(until, begin))}
    said, label_N = {}, np.empty(0)
    with TemporaryDirectory(prefix="cascade-live-") as folder:
        columns, smoothing = config.data.impression_log(config.etl.split).columns, config.etl.impressions.smoothing
        files = {
            NEW: (out, etl, etl.files("examples/test/")),
            LIVE: (run, live_etl, test_rows_as_read_by(live_etl, etl, columns, smoothing, Path(folder))),
        }
        for name, (origin, features, paths) in files.items():
            batches = ClickBatches(paths, click_schema(features), _BATCH_ROWS, config.seed)
            ranker = open_artifact(origin / "ranking", "ranking", inputs=[features])
            said[name] = said_by(OnnxModel(ranker.file("ranker.onnx"), PROBABILITY), batches)
            label_N = labels_of(batches)
    group_N = groups_of(etl)
    systems = {name: measured(name, probability_N, label_N, group_N) for name, probability_N in said.items()}
    value: dict[str, dict[str, float]] = {
        name: dict(zip(METRICS, one.metrics().tolist(), strict=True)) for name, one in systems.items()
    }
    sample = bootstrapped(systems, len(label_N), config.evaluation.num_bootstrap, config.seed, group_N)
    differences = intervals(
        systems[NEW].metrics() - systems[LIVE].metrics(), sample[NEW] - sample[LIVE], config.evaluation.level
    )
    quality = {
        metric.replace("_", " "): {
            NEW: value[NEW][metric],
            LIVE: value[LIVE][metric],
            "difference": differences[metric] | {"mean": differences[metric]["value"]},
            "higher_is_better": is_better,
        }
        for metric, is_better in _HIGHER_IS_BETTER.items()
        if not np.isnan(value[NEW][metric])
    }
    return {
        "quality": quality,
        "calibration": {name: value[name]["calibration"] for name in (NEW, LIVE)},
        "num_impressions": len(label_N),
    }


def _split_otherwise(until: int, begin: int) -> str:
    return (
        f"the live run has learned from what came before {until} (Unix seconds), and the new run's test part begins "
        f"earlier, at {begin}: they are split otherwise; keep etl.split as it is"
    )
