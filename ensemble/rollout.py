"""Moves traffic between releases: what is live at a start, deploying, and going back.

A new release is loaded beside the old ones and asked before traffic goes to it. The state is written when the traffic
has moved; until then a restart serves what was live before.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ensemble.config import ServingConfig
from ensemble.release import Release, checked_release
from ensemble.rollout_state import Live, RolloutError, RolloutState, read_state, version_of, write_state
from ensemble.served_repository import ServedRepository
from features.artifact import ArtifactError

_LOCK = "rollout.lock"


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
def rollout_lock(serve_folder: Path) -> Iterator[None]:
    """One change of what is live at a time. Raises: RolloutError if another is under way."""
    with (serve_folder / _LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
