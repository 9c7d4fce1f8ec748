"""The Triton model's name, tensors and config.pbtxt: the one place that says what goes over the wire."""

from __future__ import annotations

MODEL_NAME = "cascade"
FALLBACK_MODEL_NAME = "cascade_fallback"
"""Answers the same from slates made earlier and from popularity, when the other cannot."""

INPUTS = {
    "user_id": "TYPE_STRING",
    "k": "TYPE_INT32",
    "exclude": "TYPE_STRING",
    "timestamp": "TYPE_INT64",
    "allow": "TYPE_STRING",
}
"""Input tensors and their types; user_id [B, 1] is required; k [B, 1], exclude [B, N], timestamp [B, 1] and
allow [B, M] are not. Triton joins only requests that send the same inputs."""
PARAMETERS = ("seed", "temperature", "diversity", "timeout_ms")
"""Parameters of a request, one for all of its users; they do not keep Triton from joining it with others."""
ARM = "arm"
"""Parameter that a router adds: the experiment's arm, for the request log alone."""
SETTINGS = "serving"
"""Parameter of the model's configuration that holds the [serving] configuration as JSON."""
_LISTS = ("exclude", "allow")

OUTPUTS = {
    "item_ids": "TYPE_STRING",
    "scores": "TYPE_FP32",
    "propensities": "TYPE_FP32",
    "source": "TYPE_STRING",
    "candidate_ids": "TYPE_STRING",
    "ranked_ids": "TYPE_STRING",
}
"""Output tensors and their types: [B, k], source [B, 1], candidate_ids and ranked_ids [B, C]."""

SLATE_OUTPUTS = ("item_ids", "scores", "propensities", "source")
CANDIDATE_OUTPUTS = ("candidate_ids", "ranked_ids")

EVENTS_MODEL = "cascade_events"
EVENT_INPUTS = {
    "event_id": "TYPE_STRING",
    "user_id": "TYPE_STRING",
    "item_id": "TYPE_STRING",
    "timestamp": "TYPE_INT64",
    "attributes": "TYPE_STRING",
}
"""Input tensors and their types, [B, 1] each; `attributes` may be left out."""
EVENT_OUTPUT = "status"
"""[B, 1] text."""

_ONE_A_USER = [1]
_ANY_NUMBER = [-1]


def triton_config(max_batch_size: int, num_instances: int, max_queue_delay_microseconds: int) -> str:
    """Text of config.pbtxt.

    Args:
        max_batch_size: most users of one request and of one joined run, > 0.
        num_instances: processes that each hold a whole pipeline, > 0.
        max_queue_delay_microseconds: how long a lone request waits for others to be joined with it, >= 0; at 0 those
            that came while the instance was busy are joined.
    """
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    config = model_config_pb2.ModelConfig(name=MODEL_NAME, backend="python", max_batch_size=max_batch_size)
    for name, data_type in INPUTS.items():
        config.input.add(
            name=name,
            data_type=data_type,
            dims=_ANY_NUMBER if name in _LISTS else _ONE_A_USER,
            optional=name != "user_id",
            allow_ragged_batch=name in _LISTS,
        )
    for name, data_type in OUTPUTS.items():
        config.output.add(name=name, data_type=data_type, dims=_ONE_A_USER if name == "source" else _ANY_NUMBER)
    config.instance_group.add(count=num_instances, kind=model_config_pb2.ModelInstanceGroup.KIND_CPU)
    config.dynamic_batching.max_queue_delay_microseconds = max_queue_delay_microseconds
    return text_format.MessageToString(config)
