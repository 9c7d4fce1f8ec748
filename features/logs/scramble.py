"""Bijections of unsigned integers whose bits look random: seeded chance that needs no state and no order."""

from __future__ import annotations

import numpy as np


def scrambled32(x: np.ndarray) -> np.ndarray:
    """A bijection of uint32 whose bits look random.

    Source: Appleby, MurmurHash3 (public domain), the 32-bit finalizer.
    """
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))


def scrambled64(x: np.ndarray) -> np.ndarray:
    """A bijection of uint64 whose bits look random.

    Source: Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, the finalizer.
    """
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
