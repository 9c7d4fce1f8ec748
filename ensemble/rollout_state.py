"""What is live: `rollout.json` of a serve folder, replaced as a whole at every change, read by whoever restarts.

Triton sends a request that names no version to the largest one that is ready. So the versions of releases count down:
a new one can be loaded and asked by its number before any traffic goes to it. A router, which must get everything while
traffic is split, counts up.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from features.errors import CascadeError

STATE, MODELS, RELEASES = "rollout.json", "models", "releases"
MIDDLE = 1_000_000
"""Release r is Triton's version MIDDLE - r; router s is MIDDLE + s."""
_FORMAT = 1

Mode = Literal["whole", "canary", "shadow"]


class RolloutError(CascadeError):
    """A rollout cannot go on as asked; what was live is live still."""


def version_of(release: int) -> int:
    """Triton's version number of a release."""
    return MIDDLE - release


@dataclass(frozen=True)
class Live:
    """Which releases answer, and how traffic is shared among them."""

    stable: int
    """The release that answers all, or what the candidate does not."""
    candidate: int | None = None
    """The release on trial."""
    mode: Mode = "whole"
    """whole: stable answers all. canary: the candidate answers a share of the users. shadow: it is asked, and its
    answers are only logged."""
    share: float = 0.0
    """Share of the users that are asked of the candidate, 0..1."""
    experiment: str = ""
    """Name in the request log, and the salt of the assignment."""
    router: int | None = None
    """Serial number of the router that splits the traffic."""

    @property
    def releases(self) -> tuple[int, ...]:
        """Those that must be loaded."""
        return (self.stable,) if self.candidate is None else (self.stable, self.candidate)

    @property
    def versions(self) -> list[int]:
        """Triton's version numbers of all that must be loaded."""
        routers = [] if self.router is None else [MIDDLE + self.router]
        return sorted([*map(version_of, self.releases), *routers])


@dataclass(frozen=True)
class RolloutState:
    """What is live, what was before it, and what each release is."""

    live: Live
    before: tuple[Live, ...] = ()
    """Earlier states, the latest last, to which a rollback can return."""
    releases: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Identity of each release that is staged."""
    last_release: int = 1
    last_router: int = 0

    def moved_to(self, live: Live, kept: int) -> RolloutState:
        """The state after a change, with `kept` earlier ones behind it."""
        return replace(self, live=live, before=(*self.before, self.live)[-kept:])

    def needed(self) -> set[int]:
        """Releases that are live, or may be again by a rollback."""
        return {release for live in (*self.before, self.live) for release in live.releases}


def read_state(serve_folder: Path) -> RolloutState | None:
    """The state of a serve folder; None if nothing was ever live there.

    Raises: RolloutError if the file is damaged.
    """
    path = serve_folder / STATE
    try:
        document = json.loads(path.read_text())
        if document["format"] != _FORMAT:
            raise ValueError(f"format {document['format']}")
        return RolloutState(
            live=Live(**document["live"]),
            before=tuple(Live(**live) for live in document["before"]),
            releases={int(release): identity for release, identity in document["releases"].items()},
            last_release=document["last_release"],
            last_router=document["last_router"],
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise RolloutError(
            f"{path} is damaged ({error!r}); remove it to serve the run's own export, then deploy again what was live"
        ) from error


def write_state(serve_folder: Path, state: RolloutState) -> None:
    """Replace the state; a crash leaves the old one or the new one."""
    path = serve_folder / STATE
    text = json.dumps({"format": _FORMAT} | asdict(state), indent=2, sort_keys=True) + "\n"
    temporary = path.with_suffix(".new")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def release_folder(model_repository: Path, version: str) -> Path:
    """Where the files of a version of `cascade` lie.

    A server stages them outside of the model's folder: Triton takes a version in whose folder anything has changed for
    another one, and the online store changes with every event. In an export as it came they stand beside model.py.

    Args:
        model_repository: the model's folder, as Triton names it.
    """
    staged = model_repository.parents[1] / RELEASES / version
    return staged if staged.is_dir() else model_repository / version


def live_version_folders(serve_folder: Path) -> list[Path]:
    """Folders of the releases that are live, the stable one first: what live events and caches are about.

    Raises: RolloutError if nothing is live.
    """
    state = read_state(serve_folder)
    if state is None:
        raise RolloutError(f"{serve_folder} has no {STATE}: nothing was ever served there; run `cascade serve`")
    return [serve_folder / RELEASES / str(version_of(release)) for release in state.live.releases]
