"""Configuration of slates and features that are kept for when a part of the request path is down."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

SLATES = "slates.db"
"""File of cached slates in the folder that is served."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class CacheConfig:
    """Slates made earlier, and what was known of recent users: for when a part of the request path is down."""

    mode: Literal["fallback", "only", "off"] = "fallback"
    """fallback: cached slates stand in for what is down; only: they are all that is served, without index and ranker;
    off: popular items stand in."""
    file: str = ""
    """What `cascade cache build` wrote; empty for slates.db in the folder that is served."""
    max_age_hours: Annotated[float, Field(gt=0)] = 48.0
    """Age in hours from which a slate of the file is no longer given out."""
    num_recent_users: Annotated[int, Field(ge=0)] = 10_000
    """Most users whose features and slate the model keeps in memory, some 2 KB each; 0 for none."""
    recent_minutes: Annotated[float, Field(gt=0)] = 10.0
    """Age in minutes from which it does without them."""

    def in_folder(self, serve_folder: Path) -> CacheConfig:
        """The same, with the file's place in the folder that is served if none is configured."""
        return self if self.file else replace(self, file=str((serve_folder / SLATES).resolve()))
