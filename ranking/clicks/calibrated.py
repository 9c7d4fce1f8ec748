"""The calibrator of a click model, fitted on the part that was held out from its training.

The same part has chosen when to stop. That makes its probabilities a little better than those of new rows; with the two
numbers of Platt scaling, or a function that only rises, there is little to overfit, and `evaluate` measures what came
of it on the test part.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from scipy.special import expit

from ranking.calibration import CalibrationMethod, Calibrator, NoOrderError, fit_calibrator
from ranking.clicks.batches import ClickBatches
from ranking.clicks.model import ClickModel
from ranking.reliability import EqualMassBins

# N rows

_log = logging.getLogger(__name__)


def calibrated(
    model: ClickModel, held_out: ClickBatches, method: CalibrationMethod
) -> tuple[Calibrator, dict[str, Any]]:
    """A calibrator for a model's logits, and what a manifest says of it; leaves the model in eval mode.

    Where clicks do not become likelier with the logit on `held_out`, the probabilities stay the model's own; the log
    and `note` say so.

    Returns: `method` as it came out, `note`, `parameters` of Platt scaling, and the calibration errors on `held_out`
        before and after, and to be expected from chance alone (`ranking.reliability`).
    Raises: CalibrationDataError if a logit is not finite.
    """
    logit_N, label_N = held_out_logits(model, held_out)
    note = ""
    try:
        calibrator = fit_calibrator(logit_N, label_N, method)
    except NoOrderError as error:
        note = f"not calibrated: {error}"
        _log.warning("ranking: %s", note)
        calibrator = Calibrator()
    before = EqualMassBins(expit(logit_N), label_N)
    with torch.no_grad():
        after = EqualMassBins(calibrator(torch.from_numpy(logit_N)).numpy(), label_N)
    return calibrator, {
        "method": calibrator.method,
        "note": note,
        "parameters": calibrator.parameters_to_save if calibrator.method == "platt" else {},
        "error_before": before.error(),
        "error_after": after.error(),
        "error_by_chance": after.error_if_calibrated(),
    }


@torch.no_grad()
def held_out_logits(model: ClickModel, batches: ClickBatches) -> tuple[np.ndarray, np.ndarray]:
    """[N] logits in float32 and [N] labels, in file order."""
    model.eval()
    rows = [(model(batch).numpy(), batch[batches.label].numpy()) for batch in batches.in_order()]
    logits, labels = zip(*rows, strict=True)
    return np.concatenate(logits), np.concatenate(labels)
