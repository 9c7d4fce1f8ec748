"""Triton's control API over HTTP: load and unload versions of a model, and ask what is ready."""

from __future__ import annotations

import contextlib
import http.client
import json
from typing import Any

from features.errors import CascadeError

KEY_HEADER = "cascade-control-key"
"""Header that carries the key of the control endpoints."""


class ControlError(CascadeError, RuntimeError):
    """Triton did not do what it was asked to; the message has its words."""


class ControlClient:
    """The control endpoints of one Triton.

    Args:
        url: host:port of its HTTP protocol.
        key: what the header KEY_HEADER must carry.
        timeout_seconds: longest time for one call; loading a pipeline takes seconds.
    """

    def __init__(self, url: str, key: str, timeout_seconds: float) -> None:
        self.url = url
        self._key = key
        self._timeout_seconds = timeout_seconds

    def load(self, model: str, config: str | None = None) -> None:
        """Load a model, or bring what is loaded in line with another configuration. Versions that stay are not loaded
        anew, those that go finish what they have begun; if a new one fails, all stays as it was.

        Args:
            config: the model's configuration as JSON; None reads config.pbtxt.
        Raises: ControlError.
        """
        self._post(f"/v2/repository/models/{model}/load", {"parameters": {"config": config} if config else {}})

    def unload(self, model: str) -> None:
        """Unload all versions of a model. Raises: ControlError."""
        self._post(f"/v2/repository/models/{model}/unload", {})

    def versions(self, model: str) -> dict[int, str]:
        """State of each version Triton knows of, such as READY. Raises: ControlError."""
        answer = self._post("/v2/repository/index", {})
        return {
            int(row["version"]): row.get("state", "") for row in answer if row["name"] == model and "version" in row
        }

    def infer(self, model: str, version: int, inputs: list[dict[str, Any]], outputs: list[str]) -> dict[str, list[Any]]:
        """Ask one version, which need not get any traffic. Tensors are those of the protocol's JSON form.

        Returns: the data of each output, flat.
        Raises: ControlError.
        """
        body = {"inputs": inputs, "outputs": [{"name": name} for name in outputs]}
        answer = self._post(f"/v2/models/{model}/versions/{version}/infer", body)
        return {output["name"]: output["data"] for output in answer["outputs"]}

    def is_ready(self, model: str, version: int | None = None) -> bool:
        """Whether a model answers, or one of its versions."""
        path = f"/v2/models/{model}" + (f"/versions/{version}" if version else "") + "/ready"
        try:
            return self._call("GET", path, b"")[0] == 200
        except OSError:
            return False

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        try:
            status, answer = self._call("POST", path, json.dumps(body).encode())
        except OSError as error:
            raise ControlError(f"http {self.url} cannot be reached ({error}); is `cascade serve` running?") from error
        if status == 200:
            return json.loads(answer) if answer else None
        text = answer.decode(errors="replace")
        with contextlib.suppress(ValueError, KeyError, TypeError):
            text = json.loads(text)["error"]
        raise ControlError(f"http {self.url}{path} answered {status}: {text}")

    def _call(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        host, _, port = self.url.rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=self._timeout_seconds)
        try:
            connection.request(method, path, body or None, {KEY_HEADER: self._key})
            response = connection.getresponse()
            return response.status, response.read()
        except http.client.HTTPException as error:
            raise ConnectionError(f"{type(error).__name__}: {error}") from error
        finally:
            connection.close()
