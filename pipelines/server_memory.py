"""The memory of a server on this machine while it is under load."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np

_EVERY_SECONDS = 1.0
_MIB = 2**20


@dataclass
class ServerMemory:
    """Resident memory of a server's processes, read every second in a thread; use it in a `with`.

    Args:
        serve_folder: the server's; its lock says whose children the processes are.
    """

    serve_folder: Path
    seconds: list[float] = field(default_factory=list)
    mib: list[float] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="server memory", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def summary(self, skipped_share: float = 0.1) -> dict[str, float] | None:
        """First, last, slope and spread; None where no server's processes were found.

        Args:
            skipped_share: beginning of the test that is left out: caches and allocators fill up then.
        """
        first = int(len(self.mib) * skipped_share)
        mib, seconds = np.array(self.mib[first:]), np.array(self.seconds[first:])
        if len(mib) < 2:
            return None
        slope = np.polyfit(seconds - seconds[0], mib, 1)[0] * 60
        told = {"first_mib": mib[0], "last_mib": mib[-1], "max_mib": mib.max(), "slope_mib_per_minute": slope}
        return {name: round(float(value), 2) for name, value in told.items()} | {
            "spread": round(float(mib.max() / mib.min() - 1), 5)
        }

    def _watch(self) -> None:
        begun = time.monotonic()
        while not self._stop.is_set():
            if resident := resident_bytes(self.serve_folder):
                self.seconds.append(time.monotonic() - begun)
                self.mib.append(resident / _MIB)
            self._stop.wait(_EVERY_SECONDS)


def resident_bytes(serve_folder: Path) -> int:
    """Resident memory of all processes that the server's owner started; 0 if there is none on this machine."""
    import psutil

    lock = serve_folder / "lock"
    owner = re.search(r"started by pid (\d+)", lock.read_text()) if lock.is_file() else None
    if owner is None or not psutil.pid_exists(int(owner.group(1))):
        return 0
    total = 0
    try:
        children = psutil.Process(int(owner.group(1))).children(recursive=True)
    except psutil.NoSuchProcess:
        return 0
    for process in children:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total
