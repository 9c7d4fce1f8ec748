"""IndexHolder: the index that serves now, replaced in one step by one that fits the model that serves."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from retrieval.index.identity import OtherDimensionError
from retrieval.index.item_index import ItemIndex


class IndexHolder:
    """Hands out the current index. A search takes `current` once and stays with it, whatever is swapped in meanwhile.

    Args:
        index: the first one.
        model: SHA-256 of the query encoder that serves; None is not checked.
        vocabulary: number and sha256 of its vocabulary; None is not checked.
    Raises: ForeignModelError, OtherVocabularyError.
    """

    def __init__(self, index: ItemIndex, *, model: str | None, vocabulary: Mapping[str, Any] | None) -> None:
        self._model, self._vocabulary = model, vocabulary
        self._swapping = threading.Lock()
        index.identity.check(model, vocabulary, "the first index")
        self._current = index

    @property
    def current(self) -> ItemIndex:
        return self._current

    def swap(self, new: ItemIndex) -> ItemIndex:
        """Let `new` serve from now on.

        Returns: the one before, which searches in flight may still be using.
        Raises: ForeignModelError, OtherVocabularyError, OtherDimensionError; the one before goes on serving then.
        """
        new.identity.check(self._model, self._vocabulary, "the index to swap in")
        if new.dim != self._current.dim:
            raise OtherDimensionError(
                f"the index to swap in has dimension {new.dim}, the one that serves has {self._current.dim}; build it "
                "from the retrieval artifact that serves the queries"
            )
        with self._swapping:
            before, self._current = self._current, new
        return before
