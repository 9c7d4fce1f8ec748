"""KnownSlates: what can be given to a user without the request path: the last ranking, or the cached slate."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ensemble.cache_config import CacheConfig
from ensemble.recent_users import RecentUsers
from ensemble.slate_cache import CachedSlate, SlateCache, SlateCacheError

# B users  K candidates  n items of a slate
NO_ITEM = -1
_LOOK_SECONDS = 1.0
"""How often is looked whether the file was replaced."""
_NOTHING = CachedSlate(np.empty(0, np.int64), np.empty(0, np.int64))
log = logging.getLogger(__name__)


def score_of_place(num: int) -> np.ndarray:
    """[num] float32: 1 / place, the score of an item of a slate that was made earlier."""
    return 1 / np.arange(1, num + 1, dtype=np.float32)


class _Ranked(NamedTuple):
    row_K: np.ndarray
    score_K: np.ndarray


class KnownSlates:
    """Slates of recent users in memory, and those of the file of `cascade cache build`, which may appear, be replaced
    and go while this one is open. A file that is damaged or too old is as good as none.

    Args:
        rows_of: item rows of raw ids, -1 for an unknown one.
    """

    def __init__(self, config: CacheConfig, rows_of: Callable[[np.ndarray], np.ndarray]) -> None:
        self._rows_of = rows_of
        self._path = Path(config.file) if config.file and config.mode != "off" else None
        self._max_age_seconds = config.max_age_hours * 3600
        num_recent = 0 if config.mode == "off" else config.num_recent_users
        self._recent: RecentUsers[_Ranked] = RecentUsers(num_recent, config.recent_minutes * 60)
        self._file: SlateCache | None = None
        self._identity: tuple[int, int, int] | None = None
        self._looked_at = -np.inf
        self._look()

    def remember(self, user_ids: Sequence[str], row_BK: np.ndarray, score_BK: np.ndarray) -> None:
        """Keep what was ranked for users just now; only what was really ranked for them should be kept."""
        ranked = [
            _Ranked(row_K.astype(np.int32), score_K.copy()) for row_K, score_K in zip(row_BK, score_BK, strict=True)
        ]
        self._recent.remember(user_ids, ranked)

    def of(self, user_id: str) -> CachedSlate:
        """The best that is known, best first; empty if nothing is."""
        cached = self._cached(user_id)
        ranked = self._recent.recall(user_id)
        if ranked is None:
            return cached
        order = np.lexsort((ranked.row_K, -ranked.score_K))
        row_n = ranked.row_K[order].astype(np.int64)
        return CachedSlate(row_n[row_n != NO_ITEM], cached.seen_row)

    def has_file(self) -> bool:
        """Whether there is a file that is young enough."""
        self._look()
        return self._file is not None and self._file.age_seconds <= self._max_age_seconds

    def _cached(self, user_id: str) -> CachedSlate:
        if not self.has_file():
            return _NOTHING
        assert self._file
        try:
            return self._file.slate_of(user_id) or _NOTHING
        except SlateCacheError as error:
            log.error("%s", error)
            return _NOTHING

    def _look(self) -> None:
        """Open the file if it is another one than before."""
        if self._path is None or time.monotonic() - self._looked_at < _LOOK_SECONDS:
            return
        self._looked_at = time.monotonic()
        try:
            status = self._path.stat()
            identity = status.st_ino, status.st_mtime_ns, status.st_size
        except OSError:
            identity = None
        if identity == self._identity:
            return
        if self._file:
            self._file.close()
        self._identity, self._file = identity, None
        if identity is None:
            return
        try:
            self._file = SlateCache(self._path, self._rows_of)
        except (OSError, SlateCacheError) as error:
            log.error("%s", error)
