"""What an index belongs to, and the errors of one that does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from features.errors import CascadeError
from retrieval.errors import DivergedError


class UnfitIndexError(CascadeError, ValueError):
    """An index that cannot answer these queries, or a change that does not fit the index."""


class ForeignModelError(UnfitIndexError):
    """The index holds vectors of another model than the one that encodes the queries."""


class OtherVocabularyError(UnfitIndexError):
    """The index was built with another vocabulary than the model's: its rows name other items."""


class OtherDimensionError(UnfitIndexError):
    """Vectors of another width."""


class DuplicateItemsError(UnfitIndexError):
    """An item stands twice: which of its vectors would be the item's?"""


class DamagedIndexError(UnfitIndexError):
    """Files of the index are missing, or do not belong together."""


@dataclass(frozen=True)
class IndexIdentity:
    """Whose vectors an index holds. None means unknown, and fits everything that is not asked for."""

    model: str | None = None
    """SHA-256 of the query encoder whose queries it answers."""
    vocabulary: Mapping[str, Any] | None = None
    """Number and sha256 of the vocabulary behind the rows, as the etl stage gives them."""

    def check(self, model: str | None, vocabulary: Mapping[str, Any] | None, where: object) -> None:
        """Refuse an index of another model or vocabulary; None is not checked.

        Raises: ForeignModelError, OtherVocabularyError.
        """
        if model is not None and model != self.model:
            raise ForeignModelError(
                f"{where}: the index holds vectors of model {str(self.model)[:12]}, the queries come from "
                f"{model[:12]}; build the index from the retrieval artifact that serves the queries"
            )
        if vocabulary is None or (self.vocabulary is not None and dict(vocabulary) == dict(self.vocabulary)):
            return
        mine = self.vocabulary or {"number": None, "sha256": None}
        newer = mine["number"] is not None and mine["number"] > vocabulary["number"]
        raise OtherVocabularyError(
            f"{where}: the index has {'the newer' if newer else 'another'} vocabulary {mine['number']} "
            f"({str(mine['sha256'])[:12]}), the model has {vocabulary['number']} ({str(vocabulary['sha256'])[:12]}); "
            + ("train or swap in the model of that vocabulary first" if newer else "build the index anew")
        )


def check_vectors(vector_ND: np.ndarray, dim: int | None, where: object, advice: str) -> None:
    """Refuse vectors that cannot be compared.

    Raises: OtherDimensionError, DivergedError naming the row.
    """
    if vector_ND.ndim != 2 or (dim is not None and vector_ND.shape[1] != dim):
        raise OtherDimensionError(f"{where}: needed vectors [N, {dim or 'D'}], got {vector_ND.shape}; {advice}")
    finite_N = np.isfinite(vector_ND).all(1)
    if not finite_N.all():
        raise DivergedError(f"{where}: the vector of row {np.flatnonzero(~finite_N)[0]} is not finite; {advice}")
