"""The Triton model that answers from slates made earlier: beside `cascade`, or in its place."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import ensemble.fallback_model
from ensemble.config import ServingConfig, told_to_models
from ensemble.item_filters import ATTRIBUTES
from ensemble.last_resort import ITEMS
from ensemble.rollout_state import MODELS, live_version_folders
from ensemble.triton_config import FALLBACK_MODEL_NAME, MODEL_NAME, SETTINGS
from features.artifact import open_artifact
from features.errors import CascadeError

_MODEL_CONFIG = "config.pbtxt"
_ONLY = "cached"
"""Folder in the serve folder whose `cascade` answers from cached slates alone."""


class NoSlatesError(CascadeError):
    """Cached slates are to be served, and there are none."""


def build_fallback(folder: Path, serve_folder: Path, config: ServingConfig) -> None:
    """Write the model `cascade_fallback` with the catalogue of the release that is live.

    Args:
        folder: empty.
    """
    live = live_version_folders(serve_folder)[0]  # written before the models beside it are built
    _write_model(folder, FALLBACK_MODEL_NAME, live / "ensemble", live / _MODEL_CONFIG, config)


def cached_repository(run: Path, serve_folder: Path, config: ServingConfig) -> Path:
    """A model repository whose `cascade` answers from cached slates alone.

    Raises: NoSlatesError if there are none; ArtifactError if the export is damaged.
    """
    cache = config.cache.in_folder(serve_folder)
    if not Path(cache.file).is_file():
        raise NoSlatesError(
            f"{cache.file}: there are no cached slates to serve alone; run `cascade cache build --run {run}` first, or "
            "leave out --serving.cache.mode"
        )
    exported = open_artifact(run / "export", "export").path / "repository" / MODEL_NAME
    repository = serve_folder / _ONLY / MODELS
    shutil.rmtree(repository, ignore_errors=True)
    folder = repository / MODEL_NAME
    folder.mkdir(parents=True)
    catalogue, model_config = exported / "1/ensemble", exported / _MODEL_CONFIG
    _write_model(folder, MODEL_NAME, catalogue, model_config, replace(config, cache=cache))
    return repository


def _write_model(folder: Path, name: str, catalogue: Path, exported_config: Path, config: ServingConfig) -> None:
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    version = folder / "1"
    version.mkdir()
    for file in (ITEMS, ATTRIBUTES):
        try:
            os.link(catalogue / file, version / file)  # sealed: it never changes
        except OSError:  # another file system, or one without links
            shutil.copyfile(catalogue / file, version / file)
    shutil.copyfile(ensemble.fallback_model.__file__, version / "model.py")
    model_config = text_format.Parse(exported_config.read_text(), model_config_pb2.ModelConfig())
    model_config.name = name
    model_config.instance_group[0].count = 1
    model_config.parameters[SETTINGS].string_value = told_to_models(config)
    (folder / _MODEL_CONFIG).write_text(text_format.MessageToString(model_config))
