"""The progress bar of a training."""

from __future__ import annotations

from collections import deque

import numpy as np
import torch
from tqdm import tqdm

from ranking.clicks.metrics import auc, log_losses

# N rows

_BATCHES_SHOWN = 50


class ProgressBar:
    """A bar with rows/s, and loss and AUC of the last batches, each scored before its step."""

    def __init__(self, name: str) -> None:
        self.valid_auc = float("nan")
        self._bar = tqdm(desc=name, unit=" rows", disable=None, leave=False)
        self._recent: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=_BATCHES_SHOWN)
        self._num_batches = 0

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self, logit_N: torch.Tensor, label_N: torch.Tensor) -> None:
        """Count a batch; where nobody looks, that is all."""
        self._bar.update(len(label_N))
        if self._bar.disable:
            return
        self._recent.append((torch.sigmoid(logit_N.detach().float()).cpu().numpy(), label_N.cpu().numpy()))
        self._num_batches += 1
        if self._num_batches % _BATCHES_SHOWN == 0:
            scores, labels = map(np.concatenate, zip(*self._recent, strict=True))
            shown = {"loss": log_losses(scores, labels).mean(), "auc": auc(scores, labels)}
            self._bar.set_postfix({n: f"{v:.4f}" for n, v in (shown | {"valid_auc": self.valid_auc}).items()})
