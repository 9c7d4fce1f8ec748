"""The calibrator of a click model: fitted on held-out rows, part of the export, given up with a reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from merlin.schema import ColumnSchema, Schema, Tags

from ranking.calibration import fit_calibrator
from ranking.clicks.batches import ClickBatches
from ranking.clicks.calibrated import calibrated, held_out_logits
from ranking.clicks.checks import PartStatistics
from ranking.clicks.ranker import ClickRanker
from ranking.clicks.train import export_clicks, predicted
from ranking.config import DlrmConfig, NetworkConfig
from ranking.reliability import expected_calibration_error

SCHEMA = Schema(
    [
        ColumnSchema("label", dtype="int8", tags=[Tags.TARGET]),
        ColumnSchema("I1", dtype="float32", tags=[Tags.CONTINUOUS]),
        ColumnSchema(
            "C1",
            dtype="int64",  # as the etl stage writes hours
            tags=[Tags.CATEGORICAL],
            properties={"domain": {"min": 0, "max": 8, "name": "C1"}},
        ),
    ]
)
NETWORK = NetworkConfig(embedding_dim=4, dropout=0.3, dlrm=DlrmConfig(bottom_units=(8,), top_units=(8,)))


class Overconfident(ClickRanker):
    """Untrained, but that its logit is three times the true one, for which a category speaks and a number."""

    direction = 3.0

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return super().forward(batch) * 0 + self.direction * true_logit(batch["I1"], batch["C1"])


def true_logit(number, category):
    return 0.8 * number + 0.2 * (category - 5)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ClickBatches, ClickBatches]:
    """The held-out part, and later rows."""
    folder, random = tmp_path_factory.mktemp("parts"), np.random.default_rng(0)
    found = []
    for name in ("valid", "test"):
        number, category = random.normal(size=20_000).astype(np.float32), random.integers(3, 9, 20_000)
        label = random.random(20_000) < 1 / (1 + np.exp(-true_logit(number, category)))
        table = pa.table({"label": label.astype(np.int8), "I1": number, "C1": category})
        pq.write_table(table, folder / f"{name}.parquet")
        found.append(ClickBatches([folder / f"{name}.parquet"], SCHEMA, 4_096, 0))
    return found[0], found[1]


def model_of(kind: type[ClickRanker] = Overconfident) -> ClickRanker:
    torch.manual_seed(0)
    return kind(SCHEMA, NETWORK, PartStatistics(100, 40, np.full(9, 11)), l2=0.0)


def test_the_calibrator_undoes_what_the_model_overstates_on_rows_that_it_was_not_fitted_to(parts):
    held_out, later = parts
    model = model_of()
    calibrator, said = calibrated(model, held_out, "platt")
    assert said["parameters"]["slope"] == pytest.approx(1 / 3, rel=0.05) and said["note"] == ""
    assert said["error_before"] > 0.05 > 0.015 > said["error_after"]
    logit, label = held_out_logits(model, later)
    with torch.no_grad():
        assert expected_calibration_error(calibrator(torch.from_numpy(logit)).numpy(), label) < 0.015
    assert not model.training


@pytest.mark.parametrize("method", ["none", "platt", "isotonic"])
def test_the_exported_model_says_the_calibrated_probability_and_the_logit_behind_it(parts, method, tmp_path: Path):
    held_out, later = parts
    model = model_of()
    calibrator, said = calibrated(model, held_out, method)
    assert said["method"] == method
    export_clicks(model, tmp_path / "ranker.onnx", calibrator)
    session = onnxruntime.InferenceSession(str(tmp_path / "ranker.onnx"))
    assert [node.name for node in session.get_outputs()] == ["probability", "logit"]
    batch = next(later.in_order())
    probability, logit = session.run(None, {node.name: batch[node.name].numpy() for node in session.get_inputs()})
    expected, label = held_out_logits(model, held_out)
    assert logit == pytest.approx(held_out_logits(model, later)[0][: len(logit)], abs=1e-5)
    again = fit_calibrator(expected, label, method)
    with torch.no_grad():
        assert probability == pytest.approx(again(torch.from_numpy(logit)).numpy(), abs=1e-6)


def test_without_a_calibrator_it_says_the_models_own_probability(parts, tmp_path: Path):
    model = model_of()
    export_clicks(model, tmp_path / "ranker.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "ranker.onnx"))
    batch = next(parts[1].in_order())
    (said,) = session.run(["probability"], {node.name: batch[node.name].numpy() for node in session.get_inputs()})
    assert said == pytest.approx(predicted(model, parts[1])[0][: len(said)], abs=1e-6)


def test_a_model_that_knows_nothing_stays_as_it_is_and_says_why(parts, caplog: pytest.LogCaptureFixture):
    calibrator, said = calibrated(model_of(ClickRanker), parts[0], "platt")
    assert calibrator.method == said["method"] == "none"
    assert said["note"].startswith("not calibrated: all 20000 logits are ") and said["note"] in caplog.text


def test_a_model_that_orders_backwards_stays_as_it_is_and_says_why(parts):
    model = model_of()
    model.direction = -3.0
    calibrator, said = calibrated(model, parts[0], "platt")
    assert calibrator.method == "none" and "needed one above 0" in said["note"]
    assert said["error_before"] == pytest.approx(said["error_after"])
