"""Triton's model for when `cascade` cannot answer: the same tensors, from slates made earlier and from popularity.

`fallback_repository` copies this file as model.py. It loads in a second and holds the items' ids and popularity, so
it is there when the model with the whole pipeline is not.
"""

from __future__ import annotations

from pathlib import Path

from ensemble.last_resort import LastResort
from ensemble.triton_model import Recommender
from ensemble.triton_model import TritonPythonModel as Served


class TritonPythonModel(Served):
    """One instance: its own process."""

    def load_pipeline(self, version_dir: Path) -> Recommender:
        """What stands in for the pipeline."""
        return LastResort.open(version_dir, self.config)

    def _open_request_log(self, args: dict[str, str]) -> None:
        """Nothing led to these slates that could be logged."""
