"""What the catalogue says of its items: categories and text, as sparse rows."""

# N items of the catalogue  V values of an attribute  T terms

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy import sparse

from features.artifact import Artifact

NUM_BINS = 10
"""Values that a number is turned into, by its quantiles over the catalogue."""


@dataclass(frozen=True, eq=False)
class ItemContent:
    """Attributes of all items, those that nobody ever had included."""

    attributes: Mapping[str, sparse.csr_matrix]
    """Name -> [N, V] float32, 1 where the item has the value; an item without one has an empty row."""
    text_NT: sparse.csr_matrix | None = None
    """Terms by inverse document frequency, rows of length 1, empty without text; None if items have no text."""


def read_item_content(etl: Artifact) -> ItemContent | None:
    """Content from the raw tables of an etl artifact: the values as they were logged, whether trained on or not.

    Returns: None if the items have neither attribute nor text.
    """
    columns = etl.metrics["feature_columns"]["item"]
    names = [name for kind in ("categorical", "lists", "continuous", "texts") for name in columns[kind]]
    if not names:
        return None
    table = pq.read_table(etl.file("raw/items.parquet"), columns=names)
    attributes = {name: one_hot(table[name].combine_chunks()) for name in columns["categorical"]}
    attributes |= {name: multi_hot(table[name].combine_chunks()) for name in columns["lists"]}
    attributes |= {name: one_hot(_bins(table[name].combine_chunks())) for name in columns["continuous"]}
    texts = [table[name].fill_null("").to_pylist() for name in columns["texts"]]
    return ItemContent(attributes, tf_idf([" ".join(parts) for parts in zip(*texts, strict=True)]) if texts else None)


def content_vectors(content: ItemContent, text_weight: float, rarity: float) -> sparse.csr_matrix:
    """[N, D] values and terms of each item, rows of length 1, or 0 for an item of which nothing is known.

    Args:
        text_weight: share of the text in the cosine, in [0, 1]; the rest is the attributes'.
        rarity: power of the inverse document frequency that weighs an attribute's value.
    """
    parts = []
    if content.attributes and text_weight < 1:
        values = sparse.hstack(list(content.attributes.values()), "csr")
        num_items_D = np.asarray(values.sum(axis=0)).ravel()
        idf_D = 1 + np.log((1 + values.shape[0]) / (1 + num_items_D))
        weighted = sparse.csr_matrix(values @ sparse.diags((idf_D**rarity).astype(np.float32)))
        parts.append(unit_rows(weighted) * np.float32(np.sqrt(1 - text_weight)))
    if content.text_NT is not None and text_weight > 0:
        parts.append(content.text_NT * np.float32(np.sqrt(text_weight)))
    return unit_rows(sparse.hstack(parts, "csr"))


def one_hot(values: pa.Array) -> sparse.csr_matrix:
    """[N, V] of one value an item; a null has none."""
    return multi_hot(pa.ListArray.from_arrays(pa.array(np.arange(len(values) + 1, dtype=np.int32)), values))


def multi_hot(values: pa.ListArray) -> sparse.csr_matrix:
    """[N, V] of a list an item; a value that stands twice in it counts once, a null not at all."""
    item = pc.list_parent_indices(values)
    flat = pc.list_flatten(values)
    kept = pc.is_valid(flat)
    coded = flat.filter(kept).dictionary_encode()
    row, column = item.filter(kept).to_numpy(), coded.indices.to_numpy()
    shape = (len(values), len(coded.dictionary))
    matrix = sparse.csr_matrix((np.ones(len(row), np.float32), (row, column)), shape=shape)
    matrix.data[:] = 1.0
    return matrix


def tf_idf(texts: list[str]) -> sparse.csr_matrix | None:
    """[N, T] of one text an item, words that occur in one text only left out; None if no word is left."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(sublinear_tf=True, min_df=min(2, len(texts)), dtype=np.float32)
    try:
        return sparse.csr_matrix(vectorizer.fit_transform(texts))
    except ValueError:  # "empty vocabulary", or every word pruned
        return None


def unit_rows(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    """The same rows with length 1; an empty row stays empty."""
    length = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    scale = np.divide(1.0, length, out=np.zeros_like(length), where=length > 0)
    return sparse.csr_matrix(sparse.diags(scale.astype(np.float32)) @ matrix)


def _bins(values: pa.Array) -> pa.Array:
    """[N] which tenth of the catalogue the number falls in, null where it has none."""
    number = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
    known = np.isfinite(number)
    if not known.any():
        return pa.nulls(len(values), pa.int64())
    edges = np.unique(np.quantile(number[known], np.arange(1, NUM_BINS) / NUM_BINS))
    return pa.array(np.searchsorted(edges, number, side="right"), mask=~known)
