"""A program that ends with the process that started it, and everything that it starts in turn."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

_POLL_SECONDS = 0.005
_KILL_SECONDS = 2.0
_DEAD = ("X", "Z")
# Asks the kernel for SIGTERM at its parent's death (prctl 1 is PR_SET_PDEATHSIG), then becomes the program. A process
# of its own instead of preexec_fn, which is unsafe once the parent has threads.
_LAUNCHER = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


def launch(
    command: list[str], environment: dict[str, str], folder: Path, log_path: Path, kept_fd: int
) -> subprocess.Popen[bytes]:
    """Start a program in a process group of its own; it gets SIGTERM when this process dies, even by kill -9.

    Args:
        command: the program's path and its arguments.
        environment: its whole environment.
        folder: its working directory.
        log_path: gets its output; overwritten.
        kept_fd: file descriptor that it and its children inherit.
    Raises: OSError if it cannot be started.
    """
    started = threading.Event()
    outcome: list[subprocess.Popen[bytes] | OSError] = []

    def run() -> None:
        try:
            with log_path.open("wb") as log:
                process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *command],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=folder,
                    pass_fds=(kept_fd,),
                    start_new_session=True,
                )
        except OSError as error:
            outcome.append(error)
            started.set()
            return
        outcome.append(process)
        started.set()
        process.wait()  # to the kernel the end of the thread that started a process is its parent's death

    threading.Thread(target=run, name=f"owner of {Path(command[0]).name}", daemon=True).start()
    started.wait()
    if isinstance(outcome[0], OSError):
        raise outcome[0]
    return outcome[0]


def kill_group(group: int) -> None:
    """Kill every process of a group and give the kernel a moment to end them."""
    deadline = time.monotonic() + _KILL_SECONDS
    while group_members(group) and time.monotonic() < deadline:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
        time.sleep(_POLL_SECONDS)


def group_members(group: int) -> set[int]:
    """Processes of a group that run; what is dead and waits to be reaped does not."""
    stats = {int(folder.name): _state_and_group(int(folder.name)) for folder in Path("/proc").glob("[0-9]*")}
    return {pid for pid, (state, its_group) in stats.items() if its_group == group and state not in _DEAD}


def is_running(pid: int) -> bool:
    return _state_and_group(pid)[0] not in _DEAD


def _state_and_group(pid: int) -> tuple[str, int]:
    """A process's state letter and group as the kernel tells them; ("X", 0) if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "X", 0
    return fields[0], int(fields[2])
