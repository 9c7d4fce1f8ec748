"""The candidates of a call as columns: what the operators between the merge and the ranker pass on."""

from __future__ import annotations

import numpy as np

from ensemble.operators.operator import Columns

# B users  K candidates  S sources
NO_ITEM = -1
CANDIDATES = {
    "candidate_row": (np.int64, (None,)),
    "retrieval_score": (np.float32, (None,)),
    "candidate_sources": (np.float32, (None, None)),
}
"""[B, K] item rows, [B, K] the merged score, [B, K, S] the reciprocal rank at each source; 0 where nobody proposed."""


def widened(columns: Columns, width: int) -> Columns:
    """The candidates' columns as arrays of their own, with at least so many places; added ones are empty."""
    added = (0, max(0, width - columns["candidate_row"].shape[1]))
    return {
        "candidate_row": np.pad(columns["candidate_row"], ((0, 0), added), constant_values=NO_ITEM),
        "retrieval_score": np.pad(columns["retrieval_score"], ((0, 0), added)),
        "candidate_sources": np.pad(columns["candidate_sources"], ((0, 0), added, (0, 0))),
    }
