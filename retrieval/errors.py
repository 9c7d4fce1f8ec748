"""Errors of the retrieval stages."""

from __future__ import annotations

from features.errors import CascadeError


class DivergedError(CascadeError, ValueError):
    """Training has left the finite numbers."""
