"""Moves traffic between releases: what is live at a start, deploying, and going back.

A new release is loaded beside the old ones and asked before traffic goes to it. The state is written when the traffic
has moved; until then a restart serves what was live before.
"""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ensemble.config import ServingConfig
from ensemble.control import ControlClient, ControlError
from ensemble.release import Release, checked_release
from ensemble.rollout_state import (
    MIDDLE,
    Live,
    Mode,
    RolloutError,
    RolloutState,
    read_state,
    version_of,
    write_state,
)
from ensemble.served_repository import ServedRepository
from ensemble.triton_config import MODEL_NAME
from features.artifact import ArtifactError

_LOCK = "rollout.lock"

_POLL_SECONDS = 0.05
_GONE = ("UNAVAILABLE", "")


class Rollout:
    """Changes what is live in a serve folder.

    Args:
        repository: what is served there.
        control: Triton's control endpoints; None if no server runs: the change is live at the next start.
        check: called with Triton's version number of a release that is loaded and gets no traffic yet; raises if it
            must not get any.
    """

    def __init__(
        self,
        repository: ServedRepository,
        control: ControlClient | None,
        check: Callable[[int], None] = lambda version: None,
    ) -> None:
        self.repository = repository
        self._control = control
        self._check = check

    def deploy(
        self, release: Release, mode: Mode = "whole", share: float = 1.0, experiment: str | None = None
    ) -> RolloutState:
        """Make a release live: for all users, for a share of them, or as a shadow.

        A release that is the candidate already is not staged again: so a canary's share grows, or it becomes whole.

        Args:
            share: of the users, 0..1; for a canary or a shadow.
            experiment: its name in the request log, and what the assignment is salted with; None names it after the
                release.
        Raises: RolloutError, ControlError, OSError; what was live is live still.
        """
        with rollout_lock(self.repository.serve_folder):
            state = self._state()
            number = self._number_of(state, release)
            is_new = number is None
            if number is None:
                number = state.last_release + 1
                self.repository.stage(release, number)
                identities = state.releases | {number: dict(release.identity)}
                state = replace(state, releases=identities, last_release=number)
            if mode == "whole":
                live = Live(stable=number)
            elif number == state.live.stable:
                raise RolloutError(f"{release.run}: is live for everybody; there is nothing to try beside it")
            else:
                name = experiment or state.live.experiment or f"release-{number}"
                live = Live(state.live.stable, number, mode, share, name, state.last_router + 1)
                state = replace(state, last_router=state.last_router + 1)
            try:
                self._shift(state, live)
            except BaseException:
                if is_new:
                    self.repository.remove(version_of(number))
                raise
            return commit(self.repository, state.moved_to(live, self.repository.config.keep_states))

    def rollback(self) -> RolloutState:
        """Return to what was live before the last change.

        Raises: RolloutError if nothing is known of before; ControlError; what was live is live still.
        """
        with rollout_lock(self.repository.serve_folder):
            state = self._state()
            if not state.before:
                raise RolloutError(
                    f"{self.repository.serve_folder}: nothing is known of what was live before; deploy the run instead"
                )
            live = state.before[-1]
            if live.router is not None:  # a router's folder is not kept
                live = replace(live, router=state.last_router + 1)
                state = replace(state, last_router=state.last_router + 1)
            self._shift(state, live)
            return commit(self.repository, replace(state, live=live, before=state.before[:-1]))

    def _state(self) -> RolloutState:
        state = read_state(self.repository.serve_folder)
        if state is None:
            raise RolloutError(
                f"{self.repository.serve_folder} has no rollout.json: nothing was ever served there; "
                "run `cascade serve`"
            )
        return state

    def _number_of(self, state: RolloutState, release: Release) -> int | None:
        """The number under which a live release is staged."""
        for number in state.live.releases:
            if state.releases[number]["id"] == release.id:
                return number
        return None

    def _shift(self, state: RolloutState, live: Live) -> None:
        """Load, check, move the traffic, let go: in steps of which each leaves every request an answer."""
        if live.router is not None:
            self.repository.stage_router(live)
        if self._control is None:
            return
        before = state.live
        both = sorted({version_of(release) for release in (*before.releases, *live.releases)})
        routed = [MIDDLE + before.router] if before.router is not None else []
        newest = version_of(max(*before.releases, *live.releases))
        try:
            self._load(sorted({*both, *routed}), newest)
            for release in live.releases:
                if release not in before.releases:
                    self._check(version_of(release))
            # The new router is there before the old one goes, and that has let go of the releases before they go.
            self._load(sorted({*both, *live.versions}), newest)
            self._wait_for_the_end_of(routed)
            self._load(live.versions, version_of(max(live.releases)))
        except BaseException:
            with contextlib.suppress(ControlError):
                self._load(before.versions, version_of(max(before.releases)))
            raise

    def _load(self, versions: list[int], of: int) -> None:
        assert self._control
        self._control.load(MODEL_NAME, self.repository.model_config(versions, of))

    def _wait_for_the_end_of(self, versions: list[int]) -> None:
        assert self._control
        deadline = time.monotonic() + self.repository.config.stop_timeout_seconds
        while versions and time.monotonic() < deadline:
            states = self._control.versions(MODEL_NAME)
            versions = [version for version in versions if states.get(version, "") not in _GONE]
            time.sleep(_POLL_SECONDS)


def prepared_repository(
    run: Path, serve_folder: Path, config: ServingConfig, say: Callable[[str], None] = print
) -> ServedRepository:
    """The served repository as it must be when Triton starts: what was live is live again.

    If nothing was, or if what was live is an earlier export of this very run, the run's export becomes live.

    Raises: ArtifactError if the export is needed and damaged; RolloutError if the state is.
    """
    serve_folder.mkdir(parents=True, exist_ok=True)
    with rollout_lock(serve_folder):
        repository = ServedRepository(serve_folder, config)
        state = read_state(serve_folder)
        if state is not None and not all(repository.has(version) for version in state.live.versions):
            say("what was live is not staged any more; serving the run's own export")
            state = None
        release = _newer_export(run, state, say)
        if release is not None:
            number = state.last_release + 1 if state else 1
            repository.stage(release, number)
            live = Live(stable=number)
            state = state.moved_to(live, config.keep_states) if state else RolloutState(live)
            releases = state.releases | {number: dict(release.identity)}
            state = replace(state, releases=releases, last_release=number)
        assert state is not None
        commit(repository, state)
        repository.build_others()
    return repository


@contextmanager
def rollout_lock(serve_folder: Path, waits: bool = False) -> Iterator[None]:
    """One change of what is live at a time. Raises: RolloutError if another is under way, unless this one waits."""
    with (serve_folder / _LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        except BlockingIOError:
            raise RolloutError(f"{serve_folder}: another change is under way; try again when it is done") from None
        yield


def commit(repository: ServedRepository, state: RolloutState) -> RolloutState:
    """Write what is live now, and drop what nothing can return to.

    Returns: the state as written.
    """
    needed = state.needed()
    state = replace(state, releases={number: what for number, what in state.releases.items() if number in needed})
    repository.write_model_config(state.live.versions, version_of(max(state.live.releases)))
    write_state(repository.serve_folder, state)
    kept = {*map(version_of, needed), *state.live.versions}
    for version in repository.staged_versions():
        if version not in kept:
            repository.remove(version)
    return state


def _newer_export(run: Path, state: RolloutState | None, say: Callable[[str], None]) -> Release | None:
    """The run's export if it must become live."""
    if state is None:
        return checked_release(run)
    live = state.releases[state.live.stable]
    if live["run"] != str(run.resolve()) or state.live.mode != "whole":
        return None
    try:
        release = checked_release(run)
    except ArtifactError as error:
        say(f"serving on what was live: {error}")
        return None
    return None if release.identity["export"] == live["export"] else release
