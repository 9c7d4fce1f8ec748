"""The other Triton models that are served beside `cascade`: each its own process, built anew at every start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ensemble.config import ServingConfig
from ensemble.events_repository import build_events_model
from ensemble.fallback_repository import build_fallback
from ensemble.triton_config import EVENTS_MODEL, FALLBACK_MODEL_NAME


@dataclass(frozen=True)
class ServedModel:
    """A model of the served repository."""

    name: str
    """Triton's name of it, and its folder's."""
    build: Callable[[Path, Path, ServingConfig], None]
    """build(folder, serve_folder, config) writes config.pbtxt and `1/model.py` into the empty folder, which is put in
    place when it returns. serve_folder holds rollout.json; what is live is found by `rollout_state`."""
    wanted: Callable[[ServingConfig], bool] = lambda config: True
    """Whether the configuration asks for it."""


SERVED_MODELS: tuple[ServedModel, ...] = (
    ServedModel(EVENTS_MODEL, build_events_model, lambda config: config.events.enabled),
    ServedModel(FALLBACK_MODEL_NAME, build_fallback),
)
"""In the order in which Triton is told to load them."""
