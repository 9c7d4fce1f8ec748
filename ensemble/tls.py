"""TLS of a client: whom it trusts, and who it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ClientTls:
    """PEM files for gRPC with TLS."""

    root_certificates: str | None = None
    """Authorities that may vouch for the server; None trusts those that gRPC brings."""
    certificate: str | None = None
    """The client's own certificate chain, where the server asks for one."""
    key: str | None = None
    """The key of that certificate."""

    def arguments(self) -> dict[str, Any]:
        """As tritonclient's gRPC client takes them."""
        return {
            "ssl": True,
            "root_certificates": self.root_certificates,
            "certificate_chain": self.certificate,
            "private_key": self.key,
        }
