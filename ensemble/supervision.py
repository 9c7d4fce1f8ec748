"""Notices that a model process died, and brings its version back.

Triton 2.51 does not: it goes on saying that the model is ready, lets requests wait a second each and then fails them.
Here the version is taken away at once, so that readiness says no and callers turn to what is left; then it is loaded.
A Triton that ends takes its model processes along: that is left to whoever watches Triton.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from pathlib import Path

from ensemble.control import ControlClient, ControlError
from ensemble.process_group import group_members, is_running
from ensemble.rollout import rollout_lock
from ensemble.rollout_state import RolloutError, read_state, version_of
from ensemble.served_repository import ServedRepository
from ensemble.triton_config import MODEL_NAME
from features.errors import CascadeError

LOOK_SECONDS = 0.1
"""How often the processes are looked at."""

_READY = "READY"
_log = logging.getLogger(__name__)


class ModelKeepsDyingError(CascadeError, RuntimeError):
    """A model process died more often than it is brought back."""


class Supervisor:
    """Call `look` every LOOK_SECONDS, once Triton is ready.

    Args:
        serve_folder: whose models are served.
        triton_pid: Triton's process, which leads their group.
        control: its control endpoints.
        max_revivals: how often within window_seconds a process is brought back.
        window_seconds: see there.
        exit_seconds: longest time from the moment Triton's ports are closed to its end.
    """

    def __init__(
        self,
        serve_folder: Path,
        triton_pid: int,
        control: ControlClient,
        max_revivals: int,
        window_seconds: float,
        exit_seconds: float,
    ) -> None:
        self._serve_folder = serve_folder
        self._triton_pid = triton_pid
        self._control = control
        self._max_revivals = max_revivals
        self._window_seconds = window_seconds
        self._exit_seconds = exit_seconds
        self._known = model_processes(triton_pid, serve_folder)
        self._revived: deque[float] = deque()
        self._work: threading.Thread | None = None
        self._error: CascadeError | None = None

    def look(self) -> None:
        """Compare the processes with those of the last look; what died and should live is brought back, beside.

        Raises: ModelKeepsDyingError; ControlError if a version cannot be brought back although Triton goes on.
        """
        if self._error:
            raise self._error
        if self._work and self._work.is_alive():
            return
        running = model_processes(self._triton_pid, self._serve_folder)
        gone = {place for pid, place in self._known.items() if pid not in running}
        self._known = running
        if gone:
            self._work = threading.Thread(target=self._bring_back, args=(gone,), name="supervisor", daemon=True)
            self._work.start()

    def _bring_back(self, gone: set[tuple[str, int]]) -> None:
        try:
            for model in sorted({model for model, _ in gone}):
                self._bring_back_model(model, {version for its, version in gone if its == model})
        except ControlError as error:
            if self._control.is_live() or not self._triton_ends():
                self._error = error
        except CascadeError as error:
            self._error = error

    def _triton_ends(self) -> bool:
        """Wait for Triton's end, or until it should have come."""
        deadline = time.monotonic() + self._exit_seconds
        while is_running(self._triton_pid):
            if time.monotonic() > deadline:
                return False
            time.sleep(LOOK_SECONDS)
        return True

    def _bring_back_model(self, model: str, gone: set[int]) -> None:
        with rollout_lock(self._serve_folder, waits=True):  # a deployment ends processes too: then look what is missing
            dead = {version for version in gone if self._is_missing(model, version)}
            if not dead:
                return
            self._count(model, dead)
            if model != MODEL_NAME:
                self._control.unload(model)
                self._control.load(model)
                return
            state = read_state(self._serve_folder)
            if state is None:
                raise RolloutError(f"{self._serve_folder} has no rollout.json any more; start `cascade serve` again")
            repository = ServedRepository.opened(self._serve_folder)
            newest = version_of(max(state.live.releases))
            left = [version for version in state.live.versions if version not in dead]
            if left:
                self._control.load(model, repository.model_config(left, newest))
            else:
                self._control.unload(model)
            for version in dead:
                repository.touch(version)
            self._control.load(model, repository.model_config(state.live.versions, newest))
            _log.warning("%s version %s answers again", model, _listed(dead))

    def _is_missing(self, model: str, version: int) -> bool:
        """Whether Triton thinks that a version answers which has fewer processes than before."""
        if self._control.versions(model).get(version) != _READY:
            return False
        running = model_processes(self._triton_pid, self._serve_folder)
        return list(running.values()).count((model, version)) < self._wanted(model)

    def _wanted(self, model: str) -> int:
        from google.protobuf import text_format
        from tritonclient.grpc import model_config_pb2

        repository = ServedRepository.opened(self._serve_folder)
        text = (repository.folder / model / "config.pbtxt").read_text()
        groups = text_format.Parse(text, model_config_pb2.ModelConfig()).instance_group
        return sum(max(group.count, 1) for group in groups) or 1

    def _count(self, model: str, dead: set[int]) -> None:
        now = time.monotonic()
        self._revived.append(now)
        while self._revived[0] < now - self._window_seconds:
            self._revived.popleft()
        what = f"the process of {model} version {_listed(dead)} died (killed for want of memory?)"
        if len(self._revived) > self._max_revivals:
            raise ModelKeepsDyingError(
                f"{what}, the {len(self._revived)}th such end within {self._window_seconds:g} s; "
                "it is not brought back again"
            )
        _log.warning("%s; bringing it back", what)


def model_processes(triton_pid: int, serve_folder: Path) -> dict[int, tuple[str, int]]:
    """Model and version of each model process of a Triton, by process id."""
    models = str((serve_folder / "models").resolve())
    found = {}
    for pid in group_members(triton_pid) - {triton_pid}:
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:  # it ended meanwhile
            continue
        for word in words:
            path = Path(word.decode(errors="replace"))
            if path.name == "model.py" and path.parent.name.isdecimal() and str(path.parents[2]) == models:
                found[pid] = (path.parent.parent.name, int(path.parent.name))
    return found


def _listed(versions: set[int]) -> str:
    return ", ".join(map(str, sorted(versions)))
