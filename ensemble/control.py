"""Triton's control API: load and unload versions of a model, and ask what is ready.

Loading takes as long as the model takes. Over HTTP it holds one of Triton's HTTP threads meanwhile, and every caller
whose connection is on that thread; over gRPC it holds nobody who asks for inference. So it goes over gRPC where that
has no TLS, and everything else over HTTP.
"""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Callable
from typing import Any

from features.errors import CascadeError

KEY_HEADER = "cascade-control-key"
"""Header that carries the key of the control endpoints."""
GRPC_KEY_HEADER = f"triton-grpc-protocol-{KEY_HEADER}"
"""The same over gRPC, where Triton puts its own words before it."""


class ControlError(CascadeError, RuntimeError):
    """Triton did not do what it was asked to; the message has its words."""


class ControlClient:
    """The control endpoints of one Triton.

    Args:
        url: host:port of its HTTP protocol.
        key: what the header KEY_HEADER must carry.
        timeout_seconds: longest time for one call; loading a pipeline takes seconds.
        grpc_url: host:port of its gRPC protocol without TLS; None loads over HTTP.
    """

    def __init__(self, url: str, key: str, timeout_seconds: float, grpc_url: str | None = None) -> None:
        self.url = url
        self.grpc_url = grpc_url
        self._key = key
        self._timeout_seconds = timeout_seconds

    def load(self, model: str, config: str | None = None) -> None:
        """Load a model, or bring what is loaded in line with another configuration. Versions that stay are not loaded
        anew, those that go finish what they have begun; if a new one fails, all stays as it was.

        Args:
            config: the model's configuration as JSON; None reads config.pbtxt.
        Raises: ControlError.
        """
        if self.grpc_url:
            self._call_grpc(lambda client, options: client.load_model(model, config=config, **options))
        else:
            parameters = {"config": config} if config else {}
            self._post(f"/v2/repository/models/{model}/load", {"parameters": parameters})

    def unload(self, model: str) -> None:
        """Unload all versions of a model. Raises: ControlError."""
        if self.grpc_url:
            self._call_grpc(lambda client, options: client.unload_model(model, **options))
        else:
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

    def is_live(self) -> bool:
        """Whether Triton answers at all; one that ends does not any more."""
        return self._answers_ok("/v2/health/live")

    def is_ready(self, model: str, version: int | None = None) -> bool:
        """Whether a model answers, or one of its versions."""
        return self._answers_ok(f"/v2/models/{model}" + (f"/versions/{version}" if version else "") + "/ready")

    def _answers_ok(self, path: str) -> bool:
        try:
            return self._call("GET", path, b"")[0] == 200
        except OSError:
            return False

    def _call_grpc(self, call: Callable[[Any, dict[str, Any]], None]) -> None:
        import tritonclient.grpc as triton

        options = {"headers": {GRPC_KEY_HEADER: self._key}, "client_timeout": self._timeout_seconds}
        with triton.InferenceServerClient(str(self.grpc_url)) as client:
            try:
                call(client, options)
            except triton.InferenceServerException as error:
                raise ControlError(f"grpc {self.grpc_url} answered {error.status()}: {error.message()}") from error

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
