"""Calibrators against scikit-learn's fits and the definition, in torch and in ONNX, saved and loaded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from features.onnx_export import export_onnx
from ranking.calibration import (
    CalibrationDataError,
    CalibrationError,
    Calibrator,
    ForeignCalibratorError,
    IsotonicCalibrator,
    NoOrderError,
    PlattCalibrator,
    fit_calibrator,
    load_calibrator,
    save_calibrator,
)
from ranking.reliability import expected_calibration_error

METHODS = ("none", "platt", "isotonic")


def overconfident(num_rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits twice as large as they should be, and half too high."""
    random = np.random.default_rng(seed)
    true_logit = random.normal(-1.5, 1, num_rows)
    return 2 * true_logit + 0.5, (random.random(num_rows) < expit(true_logit)).astype(np.int8)


def said(calibrator: Calibrator, logit: np.ndarray) -> np.ndarray:
    return calibrator(torch.from_numpy(logit).float()).numpy()


def test_platt_undoes_a_slope_and_a_shift():
    """sigmoid(true) = sigmoid(logit / 2 - 1/4)."""
    calibrator = fit_calibrator(*overconfident(200_000), "platt")
    assert isinstance(calibrator, PlattCalibrator)
    assert (calibrator.slope, calibrator.intercept) == pytest.approx((0.5, -0.25), abs=0.02)


def test_platt_is_the_logistic_regression_on_platts_targets():
    logit, label = overconfident(300)
    clicks, others = label.sum(), (1 - label).sum()
    target = np.where(label > 0, (clicks + 1) / (clicks + 2), 1 / (others + 2))
    reference = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1_000).fit(
        np.tile(logit, 2)[:, None], np.repeat([1, 0], 300), np.concatenate([target, 1 - target])
    )
    found = fit_calibrator(logit, label, "platt")
    assert isinstance(found, PlattCalibrator)
    expected = (reference.coef_[0, 0], reference.intercept_[0])
    assert (found.slope, found.intercept) == pytest.approx(expected, rel=1e-4)


def test_isotonic_says_what_scikit_learn_says():
    logit, label = overconfident(5_000)
    found = fit_calibrator(logit, label, "isotonic")
    clicks = int(label.sum())
    bounds = {"y_min": 1 / (5_000 - clicks + 2), "y_max": (clicks + 1) / (clicks + 2)}
    reference = IsotonicRegression(out_of_bounds="clip", **bounds).fit(logit, label)
    asked = np.concatenate([np.linspace(-12, 12, 4_001), logit[:500]])
    assert said(found, asked) == pytest.approx(reference.predict(asked), abs=2e-6)


@pytest.mark.parametrize("method", METHODS)
def test_exported_it_says_what_scikit_learn_or_the_formula_says(method: str, tmp_path: Path):
    logit, label = overconfident(3_000)
    calibrator = fit_calibrator(logit, label, method)
    example = {"logit": torch.linspace(-3, 3, 10).reshape(2, 5)}
    axes = {name: {0: "users", 1: "candidates"} for name in ("logit", "probability")}
    path = tmp_path / "calibrator.onnx"
    export_onnx(calibrator, lambda inputs: calibrator(inputs["logit"]), example, axes, "probability", path)
    asked = np.linspace(-15, 15, 3_003).reshape(3, 1_001).astype(np.float32)
    (found,) = onnxruntime.InferenceSession(str(path)).run(None, {"logit": asked})
    if method == "isotonic":
        bounds = {"y_min": 1 / ((1 - label).sum() + 2), "y_max": (label.sum() + 1) / (label.sum() + 2)}
        reference = IsotonicRegression(out_of_bounds="clip", **bounds).fit(logit, label)
        expected = reference.predict(asked.ravel()).reshape(asked.shape)
    elif isinstance(calibrator, PlattCalibrator):
        expected = expit(calibrator.slope * asked + calibrator.intercept)
    else:
        expected = expit(asked)
    assert found == pytest.approx(expected, abs=2e-6)


@given(st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=4, max_size=40))
def test_no_calibrator_ever_turns_two_rows_around(rows: list[tuple[int, bool]]):
    logit, label = (np.array(column, float) for column in zip(*rows, strict=True))
    for method in METHODS:
        try:
            calibrator = fit_calibrator(logit * 0.7, label, method)
        except CalibrationError:
            continue
        found = said(calibrator, np.linspace(-5, 5, 2_001))
        assert (np.diff(found) >= 0).all() and (found >= 0).all() and (found <= 1).all()


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_the_calibration_error_of_an_overconfident_model_is_gone_on_new_rows(method: str):
    calibrator = fit_calibrator(*overconfident(50_000), method)
    logit, label = overconfident(100_000, seed=1)
    before = expected_calibration_error(expit(logit), label)
    assert before > 0.05 > 0.01 > expected_calibration_error(said(calibrator, logit), label)


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_a_weight_of_three_is_a_row_three_times(method: str):
    logit, label = overconfident(200)
    weight = np.random.default_rng(0).integers(1, 4, 200)
    weighted = fit_calibrator(logit, label, method, weight)
    repeated = fit_calibrator(np.repeat(logit, weight), np.repeat(label, weight), method)
    asked = np.linspace(-6, 6, 101)
    assert said(weighted, asked) == pytest.approx(said(repeated, asked), abs=1e-5)


def test_isotonic_never_says_that_a_click_is_impossible_or_certain():
    logit = np.linspace(-3, 3, 100)
    found = said(fit_calibrator(logit, logit > 0, "isotonic"), np.array([-50.0, 50.0]))
    assert found == pytest.approx([1 / 52, 51 / 52])


def test_platt_refuses_a_model_whose_clicks_fall_with_its_logit():
    logit, label = overconfident(1_000)
    with pytest.raises(NoOrderError, match=r'needed one above 0: .* set calibration to "none"'):
        fit_calibrator(-logit, label, "platt")
    with pytest.raises(NoOrderError, match=r"all 4 logits are 0\.5"):
        fit_calibrator(np.full(4, 0.5), np.array([0, 1, 0, 1]), "platt")
    with pytest.raises(NoOrderError, match="slope above 0"):
        PlattCalibrator(-1.0, 0.0)


@pytest.mark.parametrize(
    ("logit", "label", "weight", "message"),
    [
        ([0.1, np.nan], [0, 1], None, r"logit of row 1 \(the first is 0\) is nan, needed a finite number"),
        ([0.1, 0.2], [0, 3], None, "label of row 1 .* is 3.0, needed 0 or 1"),
        ([0.1, 0.2], [0, 1], [1, 0], "weight of row 1 .* is 0.0, needed a finite number above 0"),
        ([0.1, 0.2], [0, 0], None, "0 clicks in 2 rows, needed clicks and others"),
        ([0.1, 0.2], [1, 1], None, "2 clicks in 2 rows"),
        ([0.1], [0, 1], None, "one length"),
    ],
)
@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_what_nothing_can_be_fitted_to_is_named(method: str, logit: list, label: list, weight, message: str):
    with pytest.raises(CalibrationDataError, match=message):
        fit_calibrator(np.array(logit), np.array(label), method, weight and np.array(weight))


def test_knots_that_do_not_rise_are_refused():
    with pytest.raises(CalibrationDataError, match="needs rising logits"):
        IsotonicCalibrator([0.0, 0.0], [0.1, 0.2])
    with pytest.raises(CalibrationDataError, match="do not fall"):
        IsotonicCalibrator([0.0, 1.0], [0.3, 0.2])


@pytest.mark.parametrize("method", METHODS)
def test_saved_and_loaded_it_says_the_same_bit_for_bit(method: str, tmp_path: Path):
    model, path = tmp_path / "model.safetensors", tmp_path / "calibration.json"
    model.write_bytes(b"weights")
    calibrator = fit_calibrator(*overconfident(1_000), method)
    save_calibrator(calibrator, model, path)
    loaded = load_calibrator(path, model)
    asked = np.linspace(-9, 9, 1_001)
    assert loaded.method == method and np.array_equal(said(loaded, asked), said(calibrator, asked))


def test_a_calibrator_of_another_model_is_refused(tmp_path: Path):
    model, path = tmp_path / "model.safetensors", tmp_path / "calibration.json"
    model.write_bytes(b"weights")
    save_calibrator(PlattCalibrator(1.0, 0.0), model, path)
    model.write_bytes(b"other weights")
    with pytest.raises(ForeignCalibratorError, match=r"was fitted to the model with sha256 .* rerun `ranking`"):
        load_calibrator(path, model)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"method": "magic", "model_sha256": ""}'])
def test_a_file_that_is_no_calibrator_is_named(text: str, tmp_path: Path):
    path = tmp_path / "calibration.json"
    path.write_text(text)
    with pytest.raises(CalibrationError, match=r"calibration\.json: no calibrator can be read from it"):
        load_calibrator(path, path)


def test_a_calibrator_with_a_missing_number_is_named(tmp_path: Path):
    model, path = tmp_path / "model.safetensors", tmp_path / "calibration.json"
    model.write_bytes(b"weights")
    save_calibrator(PlattCalibrator(1.0, 0.0), model, path)
    document = json.loads(path.read_text())
    del document["slope"]
    path.write_text(json.dumps(document))
    with pytest.raises(CalibrationError, match="no calibrator can be read"):
        load_calibrator(path, model)
