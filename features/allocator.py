"""Memory between steps: large tensors in the place of those that were freed, instead of fresh pages from the system.

glibc gives every block over 32 MiB back at once, and the next one of that size is mapped and zeroed page by page. With
batches of 8,192 rows and vectors of 128 that was a third of a training step.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of mallopt(3) in malloc.h
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, up to its largest need so far, until it ends.

    Returns: False where the C library is not glibc, and nothing changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, 1 << 30)) and bool(mallopt(_TRIM_THRESHOLD, _LARGEST))
