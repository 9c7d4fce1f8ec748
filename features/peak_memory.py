"""The peak memory of this process over a stretch of its work, as Linux counts it."""

from __future__ import annotations

import re
import resource
from pathlib import Path

_PROC = Path("/proc/self")


def forget_peak() -> None:
    """Count from now on. Where the kernel does not allow it, the peak stays that of the whole process so far."""
    try:
        (_PROC / "clear_refs").write_text("5")  # man 5 proc: resets the peak resident set size
    except OSError:
        return


def peak_bytes() -> int:
    """Most bytes that were resident at once since `forget_peak`, or since the process began."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", (_PROC / "status").read_text(), re.MULTILINE)
    return 1024 * (int(found[1]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
