"""The strongest neighbours against a dense product."""

import numpy as np
import pytest
from scipy import sparse

from retrieval.sources import neighbours
from retrieval.sources.neighbours import largest_of_rows, strongest_neighbours


@pytest.mark.parametrize("block", [1, 4, 100])
@pytest.mark.parametrize("num", [1, 3, 50])
def test_the_strongest_neighbours_are_those_of_the_dense_product_ties_by_column(monkeypatch, block: int, num: int):
    monkeypatch.setattr(neighbours, "_BLOCK", block)
    user_item = np.random.default_rng(0).integers(0, 3, (20, 11)).astype(np.float64)
    product = user_item.T @ user_item
    found = strongest_neighbours(sparse.csr_matrix(user_item), num)
    assert found.dtype == np.float32 and found.shape == (11, 11)
    for item in range(11):
        others = [other for other in range(11) if other != item and product[item, other]]
        best = sorted(others, key=lambda other, i=item: (-product[i, other], other))[:num]
        row = found[[item]].tocoo()
        assert dict(zip(row.col.tolist(), row.data.tolist(), strict=True)) == {b: product[item, b] for b in best}


def test_size_counts_and_not_sign():
    matrix = sparse.csr_matrix(np.array([[9.0, -3.0, 2.0, 1.0]]))
    assert largest_of_rows(matrix, 2, skipped=np.array([0])).toarray().tolist() == [[0, -3, 2, 0]]
