"""Post-hoc calibration: a rising function from a model's logits to probabilities, fitted on data it was not trained on.

A network that orders well may still say probabilities that are too sure of themselves. What is fitted here never turns
two rows around; isotonic regression may put neighbours on one probability.
Source: Guo et al., "On calibration of modern neural networks", ICML 2017; Niculescu-Mizil & Caruana, "Predicting good
probabilities with supervised learning", ICML 2005.
"""

from __future__ import annotations

import json
from hashlib import file_digest
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression
from torch import nn

from features.errors import CascadeError

# N rows  K knots  any: one or more dimensions

CalibrationMethod = Literal["none", "platt", "isotonic"]


class CalibrationError(CascadeError, ValueError):
    """A model cannot be calibrated, or a calibrator not be used."""


class CalibrationDataError(CalibrationError):
    """Logits, labels or weights that nothing can be fitted to."""


class NoOrderError(CalibrationError):
    """Clicks do not become likelier with the logit: there is no rising line to fit."""


class ForeignCalibratorError(CalibrationError):
    """A calibrator that was fitted to another model's logits."""


class Calibrator(nn.Module):
    """Logits [any] to probabilities [any]: without a subclass, the model's own, sigmoid(logit)."""

    method: CalibrationMethod = "none"

    def forward(self, logit: torch.Tensor) -> torch.Tensor:
        """[any] probabilities in [0, 1], of the type of the logits."""
        return torch.sigmoid(logit)

    @property
    def parameters_to_save(self) -> dict[str, Any]:
        """What `_loaded` makes it again from, as JSON values."""
        return {}

    @classmethod
    def loaded(cls, parameters: dict[str, Any]) -> Self:
        """The calibrator whose `parameters_to_save` these are."""
        return cls(**parameters)


class PlattCalibrator(Calibrator):
    """sigmoid(slope * logit + intercept).

    Args:
        slope: above 0.
    Source: Platt, "Probabilistic outputs for support vector machines", 1999.
    """

    method = "platt"

    def __init__(self, slope: float, intercept: float) -> None:
        super().__init__()
        if not slope > 0 or not np.isfinite([slope, intercept]).all():
            raise NoOrderError(
                f"a calibrator needs a finite slope above 0 and a finite intercept, got {slope}, {intercept}"
            )
        self.slope, self.intercept = slope, intercept

    def forward(self, logit: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.slope * logit + self.intercept)

    @property
    def parameters_to_save(self) -> dict[str, Any]:
        return {"slope": self.slope, "intercept": self.intercept}


class IsotonicCalibrator(Calibrator):
    """Straight lines between knots; left and right of them the probability of the nearest.

    Args:
        logits: [K] rising.
        probabilities: [K] not falling, in [0, 1].
    Source: Zadrozny & Elkan, "Transforming classifier scores into accurate multiclass probability estimates", KDD 2002.
    """

    method = "isotonic"

    def __init__(self, logits: list[float], probabilities: list[float]) -> None:
        super().__init__()
        logit_K, probability_K = np.asarray(logits, np.float64), np.asarray(probabilities, np.float64)
        rises = logit_K.shape == probability_K.shape and len(logit_K) > 0 and np.isfinite(logit_K).all()
        if (
            not rises
            or not (np.diff(logit_K) > 0).all()
            or not (np.diff(probability_K, prepend=0, append=1) >= 0).all()
        ):
            raise CalibrationDataError(
                f"a calibrator needs rising logits and as many probabilities that do not fall, got {logits} and "
                f"{probabilities}"
            )
        self._saved = {"logits": logit_K.tolist(), "probabilities": probability_K.tolist()}
        slope_K = np.append(np.diff(probability_K) / np.diff(logit_K), 0.0)
        self.logit_K: torch.Tensor
        self.low_K: torch.Tensor
        self.high_K: torch.Tensor
        self.slope_K: torch.Tensor
        for name, values_K in (
            ("logit_K", logit_K),
            ("low_K", probability_K),
            ("high_K", np.append(probability_K[1:], probability_K[-1])),
            ("slope_K", slope_K),
        ):
            self.register_buffer(name, torch.from_numpy(values_K).float(), persistent=False)

    def forward(self, logit: torch.Tensor) -> torch.Tensor:
        knot = (logit.unsqueeze(-1) >= self.logit_K).sum(-1).clamp(min=1) - 1  # searchsorted has no ONNX form
        ahead = (logit - self.logit_K[knot]).clamp(min=0)
        # Rounding could lift the end of a line above the next one's beginning.
        return torch.minimum(self.low_K[knot] + self.slope_K[knot] * ahead, self.high_K[knot])

    @property
    def parameters_to_save(self) -> dict[str, Any]:
        return self._saved


_CALIBRATORS: dict[str, type[Calibrator]] = {
    one.method: one for one in (Calibrator, PlattCalibrator, IsotonicCalibrator)
}


def fit_calibrator(
    logit_N: np.ndarray, label_N: np.ndarray, method: CalibrationMethod, weight_N: np.ndarray | None = None
) -> Calibrator:
    """The calibrator of a method for a model's logits on data that it was not trained on.

    Args:
        label_N: 0 or 1.
        weight_N: rows that each row stands for, above 0, where rows were sampled; None for one.
    Raises: CalibrationDataError if the arrays do not fit each other, a value is not finite, or all labels are the same;
        NoOrderError if clicks do not become likelier with the logit.
    """
    if method == "none":
        return Calibrator()
    weight_N = np.ones(len(logit_N)) if weight_N is None else np.asarray(weight_N, np.float64)
    logit_N, label_N = np.asarray(logit_N, np.float64), np.asarray(label_N, np.float64)
    _check(logit_N, label_N, weight_N)
    return _platt(logit_N, label_N, weight_N) if method == "platt" else _isotonic(logit_N, label_N, weight_N)


def save_calibrator(calibrator: Calibrator, model: Path, path: Path) -> None:
    """Write as JSON.

    Args:
        model: the weights of the model to whose logits it was fitted.
    """
    document = {"method": calibrator.method, **calibrator.parameters_to_save, "model_sha256": _sha256(model)}
    path.write_text(json.dumps(document, indent=2) + "\n")


def load_calibrator(path: Path, model: Path) -> Calibrator:
    """Raises: ForeignCalibratorError if it was fitted to another model; CalibrationError if it cannot be read."""
    try:
        document = json.loads(path.read_text())
        fitted_to, made = document.pop("model_sha256"), _CALIBRATORS[document.pop("method")]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CalibrationError(f"{path}: no calibrator can be read from it ({error!r}); rerun `ranking`") from error
    if fitted_to != _sha256(model):
        raise ForeignCalibratorError(
            f"{path}: the calibrator was fitted to the model with sha256 {fitted_to}, but that of {model} is "
            f"{_sha256(model)}; fit it again: rerun `ranking`"
        )
    try:
        return made.loaded(document)
    except TypeError as error:
        raise CalibrationError(f"{path}: no calibrator can be read from it ({error}); rerun `ranking`") from error


def _platt(logit_N: np.ndarray, label_N: np.ndarray, weight_N: np.ndarray) -> PlattCalibrator:
    """Least cross-entropy to labels drawn in a little, as if one more row of either label had been seen.

    Source: Platt 1999, sec. 2.2; Lin, Lin & Weng, "A note on Platt's probabilistic outputs for support vector
    machines", Machine Learning 2007, on computing it.
    """
    low, high = _smoothed_labels(label_N, weight_N)
    target_N = np.where(label_N > 0, high, low)
    center, scale = float(np.average(logit_N, weights=weight_N)), float(logit_N.std())
    if scale == 0:
        raise NoOrderError(
            f"all {len(logit_N)} logits are {center}, needed several to see whether clicks rise with them"
        )
    scaled_N = (logit_N - center) / scale
    design_N2, total = np.stack([scaled_N, np.ones_like(scaled_N)], axis=1), weight_N.sum()

    def loss(line_2: np.ndarray) -> tuple[float, np.ndarray]:
        z_N = design_N2 @ line_2
        loss_N = np.logaddexp(0, z_N) - target_N * z_N
        return float(weight_N @ loss_N / total), design_N2.T @ (weight_N * (expit(z_N) - target_N)) / total

    def curvature(line_2: np.ndarray) -> np.ndarray:
        probability_N = expit(design_N2 @ line_2)
        return (design_N2 * (weight_N * probability_N * (1 - probability_N) / total)[:, None]).T @ design_N2

    rate = float(np.average(target_N, weights=weight_N))
    begin_2 = np.array([0.0, np.log(rate / (1 - rate))])
    found = minimize(loss, begin_2, jac=True, hess=curvature, method="trust-exact", options={"gtol": 1e-10})
    slope, height = found.x
    if not slope > 0:
        raise NoOrderError(
            f"on the {len(logit_N)} rows held out, the best slope of Platt scaling is {slope / scale:.4g}, needed one "
            "above 0: clicks do not become likelier with the model's logit; look at its AUC there, or set calibration "
            'to "none"'
        )
    return PlattCalibrator(float(slope / scale), float(height - slope * center / scale))


def _isotonic(logit_N: np.ndarray, label_N: np.ndarray, weight_N: np.ndarray) -> IsotonicCalibrator:
    """Least squares among all functions that do not fall, held off 0 and 1 as far as Platt's labels are.

    The ends of an isotonic fit are blocks of one label only; said of a later row, a probability of 0 or 1 would cost
    without bound.
    """
    low, high = _smoothed_labels(label_N, weight_N)
    fit = IsotonicRegression(y_min=low, y_max=high, out_of_bounds="clip").fit(logit_N, label_N, weight_N)
    return IsotonicCalibrator(fit.X_thresholds_.tolist(), fit.y_thresholds_.tolist())


def _smoothed_labels(label_N: np.ndarray, weight_N: np.ndarray) -> tuple[float, float]:
    """What stands for 0 and 1: 1 / (N- + 2) and (N+ + 1) / (N+ + 2). Source: Platt 1999, sec. 2.2."""
    clicks = float(weight_N @ label_N)
    others = float(weight_N.sum()) - clicks
    return 1 / (others + 2), (clicks + 1) / (clicks + 2)


def _check(logit_N: np.ndarray, label_N: np.ndarray, weight_N: np.ndarray) -> None:
    if not logit_N.shape == label_N.shape == weight_N.shape or logit_N.ndim != 1:
        raise CalibrationDataError(
            f"a calibrator is fitted to flat logits, labels and weights of one length, got {logit_N.shape}, "
            f"{label_N.shape} and {weight_N.shape}"
        )
    for name, value_N, is_good_N, needed in (
        ("logit", logit_N, np.isfinite(logit_N), "a finite number"),
        ("label", label_N, (label_N == 0) | (label_N == 1), "0 or 1"),
        ("weight", weight_N, np.isfinite(weight_N) & (weight_N > 0), "a finite number above 0"),
    ):
        if not is_good_N.all():
            row = int(np.argmin(is_good_N))
            raise CalibrationDataError(f"{name} of row {row} (the first is 0) is {value_N[row]}, needed {needed}")
    if not 0 < label_N.sum() < len(label_N):
        raise CalibrationDataError(
            f"{int(label_N.sum())} clicks in {len(label_N)} rows, needed clicks and others to fit a calibrator; hold "
            "out more rows"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
