"""Pictures of the items in a folder."""

from __future__ import annotations

from pathlib import Path

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


class Images:
    """Args:
    folder: with `<item id>.jpg` (or .jpeg, .png, .webp), or as H&M's with `<first 3 of the id>/<item id>.jpg`; None
        for no pictures.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder.resolve() if folder else None

    def path(self, item_id: str) -> Path | None:
        """The item's picture; None if there is none. An id never leads out of the folder."""
        if self._folder is None or not item_id or any(one in item_id for one in "/\\\0"):
            return None
        for parent in (self._folder, self._folder / item_id[:3]):
            for suffix in SUFFIXES:
                path = (parent / f"{item_id}{suffix}").resolve()
                if path.is_file() and path.is_relative_to(self._folder):
                    return path
        return None
