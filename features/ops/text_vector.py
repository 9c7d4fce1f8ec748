"""TextVector: a text as a small dense vector, so that what was never sold stands near what it resembles.

Words and pairs of words are weighted by tf-idf and projected on the directions in which the texts differ most.

Source: Deerwester et al., "Indexing by latent semantic analysis", JASIS 1990.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
from dask import delayed
from merlin.schema import ColumnSchema, Schema, Tags
from nvtabular.ops import StatOperator

from features.list_column import list_column

MIN_TEXTS = 2
"""Texts that a word must stand in to count."""
MAX_WORDS = 50_000


class TextVector(StatOperator):
    """Replaces each text column by one of vectors [dim], of length 1, or 0 where there is no known word.

    Args:
        dim: numbers of a vector.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.clear()

    def clear(self) -> None:
        self.fitted = False
        self._words: dict = {}
        self._directions: dict[str, np.ndarray] = {}

    def fit(self, col_selector, ddf):
        """The distinct texts; they are learned from in this process, so that every cluster gives the same bits."""
        parts = [delayed(_texts)(part, col_selector.names) for part in ddf.to_delayed()]
        return delayed(list)(parts)

    def fit_finalize(self, dask_stats) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from threadpoolctl import threadpool_limits

        for name in dask_stats[0]:
            texts = [text for part in dask_stats for text in part[name]]
            words = TfidfVectorizer(
                ngram_range=(1, 2), min_df=MIN_TEXTS, max_features=MAX_WORDS, sublinear_tf=True, dtype=np.float32
            )
            try:
                weights = words.fit_transform(texts)
            except ValueError:  # no word stands in two texts
                continue
            self._words[name] = words
            with threadpool_limits(1):
                self._directions[name] = _directions(weights, self.dim)

    def transform(self, col_selector, df):
        vectors = {}
        for name in col_selector.names:
            texts = df[name].to_pandas() if not isinstance(df, pd.DataFrame) else df[name]
            matrix = list_column(self._vectors(name, [str(text or "") for text in texts.fillna("")]))
            vectors[name] = pd.arrays.ArrowExtensionArray(pa.chunked_array([matrix]))
        frame = pd.DataFrame(vectors, index=pd.RangeIndex(len(df)))
        return frame if isinstance(df, pd.DataFrame) else type(df).from_pandas(frame)

    def _vectors(self, name: str, texts: list[str]) -> np.ndarray:
        vectors = np.zeros((len(texts), self.dim), dtype=np.float32)
        if name in self._words and texts:
            directions = self._directions[name]
            projected = self._words[name].transform(texts) @ directions
            length = np.linalg.norm(projected, axis=1, keepdims=True)
            vectors[:, : directions.shape[1]] = projected / np.where(length > 0, length, 1)
        return vectors

    def compute_output_schema(self, input_schema, col_selector, prev_output_schema=None):
        tags = [Tags.EMBEDDING]
        return Schema(
            [
                ColumnSchema(name, dtype=np.float32, tags=tags, is_list=True, is_ragged=False, dims=(None, self.dim))
                for name in col_selector.names
            ]
        )


def _texts(part, names: list[str]) -> dict[str, list[str]]:
    return {name: [str(text) for text in part[name].dropna().to_numpy() if text] for name in names}


def _directions(weights, dim: int) -> np.ndarray:
    """[words, at most dim] float32: the right singular vectors, largest first, the largest entry of each positive."""
    from sklearn.decomposition import TruncatedSVD

    dim = min(dim, min(weights.shape) - 1)
    if dim < 1:
        return np.zeros((weights.shape[1], 0), dtype=np.float32)
    with np.errstate(invalid="ignore"):  # the share of variance that it reports, if all texts are equal
        found = TruncatedSVD(dim, random_state=0).fit(weights).components_
    largest = np.take_along_axis(found, np.abs(found).argmax(1)[:, None], 1)
    return np.ascontiguousarray((found * np.sign(largest)).T, dtype=np.float32)
