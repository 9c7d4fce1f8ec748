"""What is live before a refresh, and the new run in its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipelines.refresh.record import RefreshError


def check_is_live(run: Path, serve_folder: Path) -> None:
    """Raises: RefreshError if something else than the run answers there, or not all of the users."""
    from ensemble.rollout_state import read_state

    state = read_state(serve_folder)
    if state is None:
        raise RefreshError(
            f"{serve_folder}: nothing was ever served there; run `cascade serve`, or refresh with --no-deploy"
        )
    live = state.releases[state.live.stable]["run"]
    if live != str(run.resolve()):
        raise RefreshError(
            f"{run} is not what is live in {serve_folder}: that is {live}. Refresh that one, or refresh with "
            "--no-deploy"
        )
    if state.live.candidate is not None:
        raise RefreshError(
            f"{serve_folder}: a {state.live.mode} runs beside {run}; deploy one of both to all users first, or refresh "
            "with --no-deploy"
        )


def went_live(out: Path, run: Path, serve_folder: Path) -> dict[str, Any]:
    """Deploy the new run to all users.

    Returns: the release and where it answers.
    Raises: RefreshError if something else went live meanwhile; RolloutError, ControlError, ArtifactError; what was live
        is live still.
    """
    from ensemble.release import checked_release
    from ensemble.rollout_state import read_state
    from pipelines.rollout_commands import known_users, rollout_of

    release = checked_release(out)
    state = read_state(serve_folder)
    if state is not None and state.releases[state.live.stable]["id"] == release.id and state.live.candidate is None:
        return _deployed(release.identity, state.live.stable, "it was live already")
    check_is_live(run, serve_folder)
    rollout, where = rollout_of(serve_folder, known_users(out))
    state = rollout.deploy(release)
    return _deployed(release.identity, state.live.stable, where)


def _deployed(identity: Any, number: int, where: str) -> dict[str, Any]:
    return {"release": number, "id": identity["id"], "as_of": identity["as_of"], "where": where}
