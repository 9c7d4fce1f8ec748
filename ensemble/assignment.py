"""Which users an experiment is about: a pure function of its name and the user's id, the same wherever it runs."""

from __future__ import annotations

import hashlib

_BITS = 53
"""Bits of a double's fraction: more would round up to 1."""


def place(experiment: str, user_id: str | bytes) -> float:
    """Where a user stands in [0, 1) for an experiment: uniform over users, and independent between experiments.

    The user is of the candidate's arm if the place is below its share, so a larger share keeps everybody who was in it.

    Args:
        experiment: its name; it salts the hash.
        user_id: as the log has it, text or UTF-8 bytes.
    """
    key = hashlib.blake2b(experiment.encode(), digest_size=32).digest()
    user = user_id.encode() if isinstance(user_id, str) else user_id
    digest = hashlib.blake2b(user, key=key, digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> (64 - _BITS)) / 2**_BITS
