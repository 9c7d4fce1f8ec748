"""Sums of gradients by table row, for tables of which a batch touches few rows.

Torch sorts the rows for that: 1.0 ms for 13,000 rows of 64, and 6 ms for the gradient of a mean over lists, against
0.2 ms here, in one pass and with a note for every table row of where its sum stands.
"""

from __future__ import annotations

import numba
import numpy as np
import torch

# R rows of the table  N gradients  U distinct rows  B lists  L list length  D embedding
_NOWHERE = -1


class RowSums:
    """Adds up gradients of the same row; rows come out in the order in which they first come in.

    Args:
        num_rows: R.
    """

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows
        self._place_R = np.full(num_rows, _NOWHERE, np.int32)

    def __call__(self, row_N: torch.Tensor, gradient_ND: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Distinct rows [U] and the sums of their gradients [U, D]."""
        return _summed(row_N.contiguous().numpy(), gradient_ND.contiguous().numpy(), self._place_R)

    def of_means(self, row_BL: torch.Tensor, gradient_BD: torch.Tensor, padding: int) -> tuple[np.ndarray, np.ndarray]:
        """The same for rows that came in as means over lists, the padding left out."""
        rows, gradients = row_BL.contiguous().numpy(), gradient_BD.contiguous().numpy()
        return _summed_means(rows, gradients, padding, self._place_R)


@numba.njit(nogil=True, cache=True)
def _summed(row_N: np.ndarray, gradient_ND: np.ndarray, place_R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    row_U, sum_UD, num_rows = np.empty_like(row_N), np.empty_like(gradient_ND), 0
    for n in range(len(row_N)):
        num_rows = _add(row_N[n], gradient_ND[n], np.float32(1), row_U, sum_UD, num_rows, place_R)
    place_R[row_U[:num_rows]] = _NOWHERE
    return row_U[:num_rows], sum_UD[:num_rows]


@numba.njit(nogil=True, cache=True)
def _summed_means(
    row_BL: np.ndarray, gradient_BD: np.ndarray, padding: int, place_R: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    most = min(row_BL.size, len(place_R))
    row_U, sum_UD = np.empty(most, row_BL.dtype), np.empty((most, gradient_BD.shape[1]), gradient_BD.dtype)
    num_rows = 0
    for b in range(len(row_BL)):
        length = 0
        for row in row_BL[b]:
            length += row != padding
        for row in row_BL[b]:
            if row != padding:
                share = np.float32(1) / np.float32(length)
                num_rows = _add(row, gradient_BD[b], share, row_U, sum_UD, num_rows, place_R)
    place_R[row_U[:num_rows]] = _NOWHERE
    return row_U[:num_rows], sum_UD[:num_rows]


@numba.njit(nogil=True, cache=True, inline="always")
def _add(
    row: np.integer,
    gradient_D: np.ndarray,
    share: np.floating,
    row_U: np.ndarray,
    sum_UD: np.ndarray,
    num_rows: int,
    place_R: np.ndarray,
) -> int:
    """Add share * gradient to the row's sum; the number of rows so far."""
    place = place_R[row]
    if place == _NOWHERE:
        place_R[row] = num_rows
        row_U[num_rows] = row
        for d in range(len(gradient_D)):
            sum_UD[num_rows, d] = share * gradient_D[d]
        return num_rows + 1
    for d in range(len(gradient_D)):
        sum_UD[place, d] += share * gradient_D[d]
    return num_rows
