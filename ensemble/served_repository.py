"""What Triton serves: `<serve folder>/models`, with the code of each version, and `releases`, with all other files.

Sealed files are linked, not copied: they never change, and a link costs nothing. The online store is copied, because
live events change it. The export itself is only read.
"""

from __future__ import annotations

import json
import logging
import os
import py_compile
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from ensemble import router_model
from ensemble.config import ServingConfig, told_to_models
from ensemble.events_repository import JOURNAL_FILE
from ensemble.release import IDENTITY, MODEL_CONFIG, SEAL, Release
from ensemble.rollout_state import MIDDLE, MODELS, RELEASES, Live, RolloutError, version_of
from ensemble.served_models import SERVED_MODELS
from ensemble.triton_config import MODEL_NAME, SETTINGS
from features.artifact import ArtifactError

_log = logging.getLogger(__name__)
_STORE, _LIVE = "store", "live.json"
_MODEL_CODE = "model.py"


class ServedRepository:
    """Models and releases of a serve folder.

    Args:
        serve_folder: made if it is not there.
        config: written into the models' configuration.
    """

    def __init__(self, serve_folder: Path, config: ServingConfig) -> None:
        self.serve_folder = serve_folder
        self.folder = serve_folder / MODELS
        self.config = replace(config, cache=config.cache.in_folder(serve_folder))
        (self.folder / MODEL_NAME).mkdir(parents=True, exist_ok=True)

    @classmethod
    def opened(cls, serve_folder: Path) -> ServedRepository:
        """The one that a server was started with, with the configuration it was given.

        Raises: RolloutError if nothing was ever served here.
        """
        from google.protobuf import text_format
        from tritonclient.grpc import model_config_pb2

        path = serve_folder / MODELS / MODEL_NAME / MODEL_CONFIG
        if not path.is_file():
            raise RolloutError(f"{path} is missing: nothing was ever served from {serve_folder}; run `cascade serve`")
        config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
        settings = config.parameters[SETTINGS].string_value
        return cls(serve_folder, TypeAdapter(ServingConfig).validate_json(settings))

    def version_folder(self, version: int) -> Path:
        """What Triton watches of a version of `cascade`: its code alone."""
        return self.folder / MODEL_NAME / str(version)

    def release_folder(self, version: int) -> Path:
        """Where the files of a release lie."""
        return self.serve_folder / RELEASES / str(version)

    def has(self, version: int) -> bool:
        """Whether a version is staged."""
        is_release = version < MIDDLE
        is_there = not is_release or (self.release_folder(version) / IDENTITY).is_file()
        return is_there and (self.version_folder(version) / _MODEL_CODE).is_file()

    def stage(self, release: Release, number: int) -> Path:
        """Put a checked release beside the others, whole or not at all. Nothing is loaded.

        Raises: OSError if the disk is full; ArtifactError if a file of the release changed while it was staged.
        """
        version = version_of(number)
        target = self.release_folder(version)
        temporary = self.serve_folder / f"staging-{number}"
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            for source in sorted(path for path in release.folder.rglob("*") if path.is_file()):
                inside = source.relative_to(release.folder)
                if "__pycache__" in inside.parts:
                    continue
                (temporary / inside).parent.mkdir(parents=True, exist_ok=True)
                is_sealed = inside.parts[0] == "ensemble" and _STORE not in inside.parts
                (_link if is_sealed else shutil.copyfile)(source, temporary / inside)
            shutil.copyfile(release.model_config, temporary / MODEL_CONFIG)
            (temporary / IDENTITY).write_text(json.dumps(release.identity, indent=2, sort_keys=True) + "\n")
            if (release.folder / SEAL).exists() and (temporary / SEAL).read_bytes() != (
                release.folder / SEAL
            ).read_bytes():
                raise ArtifactError(f"{release.folder} changed while it was staged; deploy it again")
            shutil.rmtree(target, ignore_errors=True)
            target.parent.mkdir(exist_ok=True)
            os.replace(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self._bring_events(target)
        self._place_code(release.code, version)
        return target

    def stage_router(self, live: Live) -> Path:
        """Put the router of a split in place. Nothing is loaded.

        Args:
            live: with a candidate and a router.
        """
        assert live.candidate is not None and live.router is not None
        version = MIDDLE + live.router
        target = self._place_code(Path(router_model.__file__), version)
        plan = {
            "stable": version_of(live.stable),
            "candidate": version_of(live.candidate),
            "mode": live.mode,
            "share": live.share,
            "experiment": live.experiment,
            "candidate_timeout_seconds": self.config.candidate_timeout_seconds,
        }
        (target / router_model.PLAN).write_text(json.dumps(plan, indent=2) + "\n")
        return target

    def touch(self, version: int) -> None:
        """Make Triton take a version for changed, so that the next load loads it anew and leaves the others alone."""
        os.utime(self.version_folder(version) / _MODEL_CODE)

    def remove(self, version: int) -> None:
        """Drop a version that is not loaded."""
        shutil.rmtree(self.version_folder(version), ignore_errors=True)
        shutil.rmtree(self.release_folder(version), ignore_errors=True)

    def staged_versions(self) -> list[int]:
        """Triton's version numbers of all that is staged, loaded or not."""
        return sorted(int(path.name) for path in (self.folder / MODEL_NAME).iterdir() if path.name.isdecimal())

    def model_config(self, versions: Sequence[int], of: int) -> str:
        """Configuration of `cascade` with some versions loaded, as the JSON that Triton's control API takes.

        Args:
            of: the version with whose exported configuration they run.
        """
        from google.protobuf import json_format

        return json_format.MessageToJson(self._model_config(versions, of), preserving_proto_field_name=True)

    def write_model_config(self, versions: Sequence[int], of: int) -> None:
        """The same into config.pbtxt, which Triton reads when it starts; replaced as a whole."""
        from google.protobuf import text_format

        path = self.folder / MODEL_NAME / MODEL_CONFIG
        temporary = path.with_suffix(".new")
        temporary.write_text(text_format.MessageToString(self._model_config(versions, of)))
        os.replace(temporary, path)

    def build_others(self) -> None:
        """Build the models beside `cascade` anew; drop those that the configuration does not ask for."""
        wanted = [model for model in SERVED_MODELS if model.wanted(self.config)]
        for folder in self.folder.iterdir():
            if folder.name not in (MODEL_NAME, *(model.name for model in wanted)):
                shutil.rmtree(folder)
        for model in wanted:
            temporary = self.serve_folder / f"building-{model.name}"
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            try:
                model.build(temporary, self.serve_folder, self.config)
                shutil.rmtree(self.folder / model.name, ignore_errors=True)
                os.replace(temporary, self.folder / model.name)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)

    def _bring_events(self, version_folder: Path) -> None:
        """Bring the live events accepted so far into the version's store, so that its first slates know them.

        A store that cannot be written now holds up no deployment: the events process brings them when it can.
        """
        journal = self.serve_folder / JOURNAL_FILE
        if not (journal.is_file() and (version_folder / "ensemble" / _STORE / _LIVE).is_file()):
            return
        from features.live.target import replay  # Feast takes seconds to import

        try:
            replay(journal, version_folder)
        except Exception as error:  # of any store, and its engine's own
            _log.warning("%s lacks live events as yet: %s: %s", version_folder, type(error).__name__, error)

    def _place_code(self, code: Path, version: int) -> Path:
        """Make the folder of a version for Triton, with a copy of its code.

        Returns: the folder.
        """
        folder = self.version_folder(version)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        shutil.copyfile(code, folder / _MODEL_CODE)
        # What Python would write at the first import; Triton would take the version for changed and load it anew.
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        py_compile.compile(str(folder / _MODEL_CODE), doraise=True, invalidation_mode=mode)
        return folder

    def _model_config(self, versions: Sequence[int], of: int) -> Any:
        from google.protobuf import text_format
        from tritonclient.grpc import model_config_pb2

        exported = (self.release_folder(of) / MODEL_CONFIG).read_text()
        config = text_format.Parse(exported, model_config_pb2.ModelConfig())
        config.version_policy.specific.versions[:] = sorted(versions)
        settings = told_to_models(self.config)
        config.parameters[SETTINGS].string_value = settings
        return config


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
