"""Splits the traffic of `cascade` between two releases while one of them is on trial.

It is the largest version of the model while it is there, so Triton sends it every request that names no version; it
asks the releases by their numbers and puts the users of a call together again. Whatever goes wrong with the candidate,
the stable release answers.

Staged as model.py; reads `router.json` beside it.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.assignment import place
from ensemble.parameters import checked_parameters
from ensemble.request import Request, RequestError
from ensemble.triton_config import ARM

PLAN = "router.json"
_FILLERS = {"item_ids": b"", "scores": -np.inf, "propensities": 0.0, "candidate_ids": b"", "ranked_ids": b""}
_SHADOW_QUEUE = 64
_SECONDS_BETWEEN_WARNINGS = 10.0

# B users  k items of a slate


def candidate_rows(experiment: str, share: float, user_ids: np.ndarray) -> np.ndarray:
    """[B] bool: which users are of the candidate's arm.

    Args:
        user_ids: [B] ids, text or UTF-8 bytes.
    """
    return np.array([place(experiment, user_id) < share for user_id in user_ids.tolist()], dtype=bool)


def put_together(parts: list[tuple[np.ndarray, dict[str, np.ndarray]]], num_users: int) -> dict[str, np.ndarray]:
    """One reply from those of the arms, narrower ones padded.

    Args:
        parts: rows of the call, [b] of int, and the outputs for them, [b, k].
    """
    whole: dict[str, np.ndarray] = {}
    for name, first in parts[0][1].items():
        width = max(outputs[name].shape[1] for _, outputs in parts)
        whole[name] = np.full((num_users, width), _FILLERS.get(name), dtype=first.dtype)
        for rows, outputs in parts:
            whole[name][rows, : outputs[name].shape[1]] = outputs[name]
    return whole


class TritonPythonModel:
    """The router."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the plan."""
        import triton_python_backend_utils as pb_utils  # pyright: ignore[reportMissingImports]  (Triton brings it)

        self.pb_utils = pb_utils
        self.model = args["model_name"]
        plan = json.loads((Path(args["model_repository"]) / args["model_version"] / PLAN).read_text())
        self.stable, self.candidate = int(plan["stable"]), int(plan["candidate"])
        self.mode, self.share, self.experiment = plan["mode"], float(plan["share"]), plan["experiment"]
        self.candidate_timeout_seconds = float(plan["candidate_timeout_seconds"])
        self._warned = -_SECONDS_BETWEEN_WARNINGS
        self._shadow = _Shadow(self._ask_blocking) if self.mode == "shadow" else None

    def finalize(self) -> None:
        """Let the shadow's thread end."""
        if self._shadow:
            self._shadow.stop()

    async def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each of Triton's requests, all at once."""
        return list(await asyncio.gather(*(self._routed(request) for request in requests)))

    async def _routed(self, request: Any) -> Any:
        inputs = {tensor.name(): tensor for tensor in request.inputs()}
        user_ids = inputs["user_id"].as_numpy()[:, 0]
        chosen_B = candidate_rows(self.experiment, self.share, user_ids)
        if self._shadow:
            if chosen_B.any():
                self._shadow.put(self._part(request, self.candidate, "shadow", np.flatnonzero(chosen_B)))
            return await self._stable(request)
        if not chosen_B.any():
            return await self._stable(request)
        arms = [
            (self.stable, "stable", np.flatnonzero(~chosen_B)),
            (self.candidate, "candidate", np.flatnonzero(chosen_B)),
        ]
        parts = [(rows, self._part(request, version, arm, rows)) for version, arm, rows in arms if len(rows)]
        limit = asyncio.timeout(self.candidate_timeout_seconds)
        try:
            async with limit:
                answers = await asyncio.gather(*(part.async_exec() for _, part in parts))
        except Exception as error:  # the candidate must not cost anybody an answer
            self._warn(f"{type(error).__name__}: {error}")
            return await self._stable(request)
        if failed := [answer for answer in answers if answer.has_error()]:
            if not _is_callers_mistake(request):
                self._warn(failed[0].error().message())
            return await self._stable(request)  # asked whole, also so that a message has the caller's row in it
        if len(parts) == 1:
            return answers[0]
        done = [
            (rows, {tensor.name(): tensor.as_numpy() for tensor in answer.output_tensors()})
            for (rows, _), answer in zip(parts, answers, strict=True)
        ]
        whole = put_together(done, len(user_ids))
        return self.pb_utils.InferenceResponse(
            output_tensors=[self.pb_utils.Tensor(name, whole[name]) for name in request.requested_output_names()]
        )

    async def _stable(self, request: Any) -> Any:
        answer = await self._part(request, self.stable, "stable", None).async_exec()
        if answer.has_error() and _is_callers_mistake(request):  # the code of an error is lost on the way here
            error = self.pb_utils.TritonError(answer.error().message(), self.pb_utils.TritonError.INVALID_ARG)
            return self.pb_utils.InferenceResponse(output_tensors=[], error=error)
        return answer

    def _part(self, request: Any, version: int, arm: str, rows: np.ndarray | None) -> Any:
        """The request for some of its users, as one of the releases is asked; None for all."""
        tensors = request.inputs()
        if rows is not None and len(rows) < len(tensors[0].as_numpy()):
            tensors = [self.pb_utils.Tensor(tensor.name(), tensor.as_numpy()[rows]) for tensor in tensors]
        given = json.loads(request.parameters() or "{}")
        parameters = {name: str(value) for name, value in given.items()} | {ARM: f"{self.experiment}/{arm}"}
        return self.pb_utils.InferenceRequest(
            request_id=request.request_id(),
            model_name=self.model,
            model_version=version,
            requested_output_names=sorted(request.requested_output_names()),
            inputs=tensors,
            parameters=parameters,
        )

    def _ask_blocking(self, part: Any) -> None:
        answer = part.exec()
        if answer.has_error():
            self._warn(answer.error().message())

    def _warn(self, message: str) -> None:
        now = time.monotonic()
        if now - self._warned >= _SECONDS_BETWEEN_WARNINGS:
            self._warned = now
            self.pb_utils.Logger.log_warn(f"experiment {self.experiment}: the candidate failed: {message}")


def _is_callers_mistake(request: Any) -> bool:
    """Whether a release had to refuse the request."""
    tensors = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
    try:
        parameters = checked_parameters(json.loads(request.parameters() or "{}"))
        Request.of(tensors.pop("user_id"), **tensors, **parameters)
    except RequestError:
        return True
    return False


class _Shadow:
    """A thread that asks the candidate behind the callers' backs; when it falls behind, it asks less."""

    def __init__(self, ask: Any) -> None:
        self._ask = ask
        self._parts: deque[Any] = deque(maxlen=_SHADOW_QUEUE)
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
        self._thread.start()

    def put(self, part: Any) -> None:
        self._parts.append(part)
        self._wake.set()

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()
        self._thread.join(timeout=2)

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait()
            self._wake.clear()
            while self._parts and not self._stopping:
                self._ask(self._parts.popleft())
