"""How the proposals of a source are held against a formula."""

from collections.abc import Callable

import numpy as np
import pytest

from retrieval.sources import Proposals, Users

NO_ITEM = -1


@pytest.fixture(scope="session")
def assert_best() -> Callable[[Proposals, np.ndarray, Users], None]:
    """Proposals against the scores of all items, [B, I] float64 by a formula; -inf where an item cannot be proposed."""

    def check(found: Proposals, score_BI: np.ndarray, users: Users) -> None:
        k = found.row_BK.shape[1]
        for user, (row_K, score_K) in enumerate(zip(found.row_BK, found.score_BK, strict=True)):
            score_I = score_BI[user].copy()
            score_I[users.forbidden_BS[user][users.forbidden_BS[user] >= 0]] = -np.inf
            best = np.sort(score_I[np.isfinite(score_I)])[::-1][:k]
            item = row_K[row_K != NO_ITEM]
            assert len(item) == len(best), f"user {user}"
            np.testing.assert_allclose(score_K[: len(item)], best, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(score_I[item], best, rtol=1e-4, atol=1e-5)

    return check
