"""The Triton model `cascade_events`: its config.pbtxt and its folder in a served repository."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from ensemble.config import ServingConfig
from ensemble.triton_config import EVENT_INPUTS, EVENT_OUTPUT, EVENTS_MODEL, SETTINGS
from features.live.config import EventsConfig

JOURNAL, JOURNAL_FILE = "journal", "events.db"
"""Parameter of the model's configuration that says where the journal is, and the file's name in the serve folder."""


def events_config(config: EventsConfig, journal: Path) -> str:
    """Text of config.pbtxt.

    Args:
        journal: the file.
    """
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    model = model_config_pb2.ModelConfig(name=EVENTS_MODEL, backend="python", max_batch_size=config.max_batch_size)
    for name, data_type in EVENT_INPUTS.items():
        model.input.add(name=name, data_type=data_type, dims=[1], optional=name == "attributes")
    model.output.add(name=EVENT_OUTPUT, data_type="TYPE_STRING", dims=[1])
    model.instance_group.add(count=1, kind=model_config_pb2.ModelInstanceGroup.KIND_CPU)  # one writer of the journal
    model.dynamic_batching.max_queue_delay_microseconds = 0
    model.parameters[JOURNAL].string_value = str(journal)
    model.parameters[SETTINGS].string_value = json.dumps(asdict(config))
    return text_format.MessageToString(model)


def build_events_model(folder: Path, serve_folder: Path, config: ServingConfig) -> None:
    """Fill the model's folder in a served repository; the journal stands in the serve folder."""
    import ensemble.events_model

    (folder / "1").mkdir()
    shutil.copyfile(ensemble.events_model.__file__, folder / "1" / "model.py")
    (folder / "config.pbtxt").write_text(events_config(config.events, serve_folder.resolve() / JOURNAL_FILE))
