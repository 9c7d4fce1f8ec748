"""Asks a release that is loaded and gets no traffic yet: what a caller would get from it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from ensemble.control import ControlClient
from ensemble.rollout_state import RolloutError
from ensemble.triton_config import MODEL_NAME

_STRANGER = "a user nobody knows"
_K = 10
_SECONDS_BETWEEN = 0.5
_SERVED = ("personal", "cold", "fallback")
"""What a release that is well may say of where a slate is from."""


class ReleaseCheck:
    """Called with Triton's version number, it raises if that version must not get traffic.

    Args:
        control: of the server that has it loaded.
        known_users: ids that its features know; a stranger is asked for too.
        patience_seconds: how long its answers may be bad at first.
    """

    def __init__(self, control: ControlClient, known_users: Sequence[str], patience_seconds: float = 20.0) -> None:
        self._patience_seconds = patience_seconds
        self._control = control
        self._known_users = list(known_users)

    def __call__(self, version: int) -> None:
        """Ask until the answers are good: the first of a new process are slow, and a slow part is left out of a reply.

        Raises: RolloutError, ControlError.
        """
        deadline = time.monotonic() + self._patience_seconds
        while True:
            try:
                return self._ask(version)
            except RolloutError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_SECONDS_BETWEEN)

    def _ask(self, version: int) -> None:
        users = [*self._known_users, _STRANGER]
        outputs = self._control.infer(MODEL_NAME, version, _question(users), ["item_ids", "source"])
        items, sources = outputs["item_ids"], outputs["source"]
        width = len(items) // len(users)
        for row, (user, source) in enumerate(zip(users, sources, strict=True)):
            slate = [item for item in items[row * width : (row + 1) * width] if item]
            if not slate or len(set(slate)) < len(slate) or source not in _SERVED:
                raise RolloutError(
                    f"the new release is no better than none: user {user!r} gets {slate} from {source!r}; "
                    "what was live is live still"
                )
        if self._known_users and all(source == "fallback" for source in sources[:-1]):
            raise RolloutError(
                f"the new release knows none of the users {self._known_users}: its store is empty or another run's; "
                "what was live is live still"
            )


def _question(users: list[str]) -> list[dict[str, Any]]:
    shape = [len(users), 1]
    return [
        {"name": "user_id", "datatype": "BYTES", "shape": shape, "data": users},
        {"name": "k", "datatype": "INT32", "shape": shape, "data": [_K] * len(users)},
    ]
