"""Triton's side of live events: the class that its Python backend loads, in a process of its own.

The repository holds a copy of this file as model.py. Triton hands over the events of several callers at once: they
become durable together, and each caller gets the statuses of its own.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np


class TritonPythonModel:
    """The one instance of the model."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the journal and bring every version's store up to it.

        Args:
            args: Triton's; model_repository (the model's folder) and model_config are read.
        """
        import triton_python_backend_utils as pb_utils  # pyright: ignore[reportMissingImports]  (Triton brings it)
        from pydantic import TypeAdapter

        from ensemble.events_repository import JOURNAL
        from ensemble.metrics_publisher import MetricsPublisher
        from ensemble.rollout_state import RELEASES
        from ensemble.serving_metrics import metrics
        from ensemble.triton_config import SETTINGS
        from features.live.config import EventsConfig
        from features.live.intake import Intake

        self.pb_utils = pb_utils
        parameters = json.loads(args["model_config"])["parameters"]
        config = TypeAdapter(EventsConfig).validate_json(parameters[SETTINGS]["string_value"])
        releases = Path(args["model_repository"]).parents[1] / RELEASES
        self.intake = Intake(releases, Path(parameters[JOURNAL]["string_value"]), config, _say_behind)
        self.intake.start()
        self.publisher = MetricsPublisher(metrics, pb_utils, args)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Take the events of all requests at once; an error of the journal concerns all of them."""
        from ensemble.serving_metrics import metrics
        from ensemble.triton_config import EVENT_OUTPUT

        batches = [_columns(request) for request in requests]
        try:
            statuses = self.intake.push([[value for batch in batches for value in batch[place]] for place in range(5)])
        except Exception as error:  # nothing was taken: every caller is told, and may send again
            self.pb_utils.Logger.log_error(f"live events were not taken: {type(error).__name__}: {error}")
            metrics.count("cascade_events_total", sum(len(batch[0]) for batch in batches), status="failed")
            failure = self.pb_utils.TritonError(str(error), self.pb_utils.TritonError.UNAVAILABLE)
            return [self.pb_utils.InferenceResponse(output_tensors=[], error=failure) for _ in requests]
        for status, number in Counter(status.split(":")[0] for status in statuses).items():
            metrics.count("cascade_events_total", number, status=status)
        responses, begin = [], 0
        for batch in batches:
            own = np.array(statuses[begin : begin + len(batch[0])], dtype=object)[:, None]
            begin += len(batch[0])
            responses.append(self.pb_utils.InferenceResponse([self.pb_utils.Tensor(EVENT_OUTPUT, own)]))
        return responses

    def finalize(self) -> None:
        """Stop looking after the stores."""
        self.intake.close()
        self.publisher.stop()


def _say_behind(num_behind: int) -> None:
    from ensemble.serving_metrics import metrics

    metrics.gauge("cascade_event_stores_behind", num_behind)


def _columns(request: Any) -> list[list[Any]]:
    """Event ids, user ids, item ids, timestamps and attributes; Triton has checked names, types and shapes."""
    from ensemble.triton_config import EVENT_INPUTS

    tensors = {tensor.name(): tensor.as_numpy().ravel().tolist() for tensor in request.inputs()}
    nothing = [None] * len(tensors["event_id"])
    return [tensors.get(name, nothing) for name in EVENT_INPUTS]
