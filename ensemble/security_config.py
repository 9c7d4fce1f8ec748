"""Configuration of who may call the server, and how."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

Api = Literal[
    "health", "metadata", "inference", "shared-memory", "model-config", "model-repository", "statistics", "trace",
    "logging",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class SecurityConfig:
    """Keys and certificates. Addresses are in [serving]."""

    restricted_apis: tuple[Api, ...] = ("model-repository", "model-config", "shared-memory", "trace", "logging")
    """Triton's endpoints that need the control key, over HTTP and gRPC."""
    http_inference: Literal["auto", "open", "key"] = "auto"
    """Whether asking for slates over HTTP needs the key too: one request can end Triton 2.51 there. "auto" is "open" on
    127.0.0.1 and "key" on every other address. gRPC is open."""
    control_key_env: str = ""
    """Environment variable that holds the control key; empty makes a new key at every start, in `control.key` of the
    serve folder."""
    tls_certificate: str = ""
    """PEM file with the server's certificate chain; it turns on TLS for gRPC, and keeps HTTP, for which Triton has
    none, on 127.0.0.1."""
    tls_key: str = ""
    """PEM file with the key of that certificate."""
    tls_client_ca: str = ""
    """PEM file with the authorities whose clients may call; empty lets every client call."""
