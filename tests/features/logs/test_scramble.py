"""Bit mixers: no two numbers become one, and the result shows no trace of the order."""

import numpy as np
import pytest

from features.logs.scramble import scrambled32, scrambled64


@pytest.mark.parametrize(("scrambled", "kind"), [(scrambled32, np.uint32), (scrambled64, np.uint64)])
def test_numbers_in_a_row_become_different_and_evenly_spread(scrambled, kind) -> None:
    mixed = scrambled(np.arange(100_000, dtype=kind))
    assert mixed.dtype == kind
    assert len(np.unique(mixed)) == 100_000
    share = mixed.astype(np.float64) / float(np.iinfo(kind).max)
    assert np.histogram(share, 10, (0, 1))[0] == pytest.approx(10_000, rel=0.05)
    assert abs(np.corrcoef(share[1:], share[:-1])[0, 1]) < 0.02


def test_the_mixers_are_the_published_ones() -> None:
    """Values by hand from the papers' constants: splitmix64 with state 0, and the finalizer of MurmurHash3 of 1."""
    assert scrambled64(np.zeros(1, np.uint64)).tolist() == [0xE220A8397B1DCDAF]
    assert scrambled32(np.ones(1, np.uint32)).tolist() == [0x514E28B7]
