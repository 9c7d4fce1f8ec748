"""Sparse item-item products, block by block, of which only the strongest entries of each row are kept."""

from __future__ import annotations

import numba
import numpy as np
from scipy import sparse

# I items  M neighbours kept  R rows  E stored entries
_BLOCK = 2_048


def strongest_neighbours(user_item: sparse.csr_matrix, num_neighbours: int) -> sparse.csr_matrix:
    """[I, I] float32: of X^T X without its diagonal, the num_neighbours largest entries of each row; ties by column."""
    item_user = user_item.T.tocsr()
    blocks = []
    for begin in range(0, item_user.shape[0], _BLOCK):
        product = (item_user[begin : begin + _BLOCK] @ user_item).tocsr()
        blocks.append(largest_of_rows(product, num_neighbours, skipped=np.arange(begin, begin + product.shape[0])))
    return sparse.vstack(blocks, "csr", np.float32)


def largest_of_rows(matrix: sparse.csr_matrix, num: int, skipped: np.ndarray) -> sparse.csr_matrix:
    """The num entries of largest size of each row, without one column; of equal ones the first columns.

    Args:
        skipped: [R] the column that each row leaves out.
    """
    matrix.sort_indices()
    is_kept_E = _are_largest(matrix.indptr, matrix.indices, np.abs(matrix.data).astype(np.float32), num, skipped)
    row_E = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    num_kept_R = np.bincount(row_E[is_kept_E], minlength=matrix.shape[0])
    data, indices = matrix.data[is_kept_E].astype(np.float32), matrix.indices[is_kept_E]
    return sparse.csr_matrix((data, indices, np.concatenate([[0], np.cumsum(num_kept_R)])), matrix.shape)


@numba.njit(cache=True)
def _are_largest(indptr, indices, size_E, num, skipped):
    is_kept_E = np.zeros(len(size_E), np.bool_)
    for row in range(len(indptr) - 1):
        begin, end = indptr[row], indptr[row + 1]
        num_others = 0
        for entry in range(begin, end):
            num_others += indices[entry] != skipped[row]
        least, num_equal = np.float32(-1), 0
        if num_others > num:
            others = np.empty(num_others, np.float32)
            place = 0
            for entry in range(begin, end):
                if indices[entry] != skipped[row]:
                    others[place] = size_E[entry]
                    place += 1
            least = np.partition(others, num_others - num)[num_others - num]
            num_equal = num - np.sum(others > least)
        for entry in range(begin, end):
            if indices[entry] == skipped[row]:
                continue
            if size_E[entry] > least:
                is_kept_E[entry] = True
            elif size_E[entry] == least and num_equal > 0:
                is_kept_E[entry] = True
                num_equal -= 1
    return is_kept_E
