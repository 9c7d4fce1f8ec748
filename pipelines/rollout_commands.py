"""What the commands do that change what is live on a running server."""

from __future__ import annotations

import json
from argparse import Namespace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.commands import ADDRESSES, SERVED, CommandError

if TYPE_CHECKING:
    from ensemble.rollout import Rollout
    from ensemble.rollout_state import Live, RolloutState

_NUM_KNOWN_USERS = 8


def deploy(options: Namespace) -> None:
    """Load a run's export beside what is live, check it, and move traffic to it."""
    from ensemble.release import checked_release

    serve_folder = served_folder(options)
    release = checked_release(options.run)
    if release.identity.get("num_items") is None:
        raise CommandError(f"{options.run}: holds no items")
    mode, share = "whole", 1.0
    if options.canary is not None:
        mode, share = "canary", options.canary
    elif options.shadow is not None:
        mode, share = "shadow", options.shadow
    if options.experiment and mode == "whole":
        raise CommandError("--experiment needs --canary or --shadow")
    rollout, where = rollout_of(serve_folder, known_users(options.run))
    state = rollout.deploy(release, mode, share, options.experiment)
    print(f"{_told(state.live, state)}; {where}")


def rollback(options: Namespace) -> None:
    """Return to what was live before."""
    rollout, where = rollout_of(served_folder(options), [])
    state = rollout.rollback()
    print(f"{_told(state.live, state)}; {where}")


def deployments(options: Namespace) -> None:
    """Print what is live, and what was before."""
    from dataclasses import asdict

    from ensemble.rollout_state import read_state

    serve_folder = served_folder(options)
    state = read_state(serve_folder)
    if state is None:
        raise CommandError(f"{serve_folder}: nothing was ever served there; run `cascade serve`")
    if options.json:
        print(json.dumps(asdict(state), indent=2))
        return
    print(f"live     {_told(state.live, state)}")
    for live in reversed(state.before):
        print(f"before   {_told(live, state)}")


def served_folder(options: Namespace) -> Path:
    """Where `--to`, or the run that was served last, keeps what it serves."""
    if options.to is None and not SERVED.is_file():
        raise CommandError("no served run is known here; give its folder: --to runs/NAME")
    return (options.to or Path(SERVED.read_text().strip())) / "serve"


def rollout_of(serve_folder: Path, known_users: list[str]) -> tuple[Rollout, str]:
    """What changes the rollout, and where it takes effect."""
    from ensemble.control import ControlClient
    from ensemble.control_key import read_control_key
    from ensemble.release_check import ReleaseCheck
    from ensemble.rollout import Rollout
    from ensemble.served_repository import ServedRepository
    from ensemble.server import is_served

    repository = ServedRepository.opened(serve_folder)
    if not is_served(serve_folder):
        return Rollout(repository, None), "no server runs: it answers from the next `cascade serve` on"
    addresses = serve_folder / ADDRESSES
    if not addresses.is_file():
        raise CommandError(f"{serve_folder}: its server is not ready yet, or is stopping; try again in a moment")
    urls = {protocol: _reachable(url) for protocol, url in json.loads(addresses.read_text()).items()}
    key = read_control_key(serve_folder, repository.config)
    grpc_url = None if repository.config.security.tls_certificate else urls["grpc"]
    control = ControlClient(urls["http"], key, repository.config.ready_timeout_seconds, grpc_url)
    return Rollout(
        repository, control, ReleaseCheck(control, known_users)
    ), f"the server at {urls['grpc']} answers from it"


def _reachable(url: str) -> str:
    """Where this machine reaches a server that listens on every network."""
    return url.replace("0.0.0.0:", "127.0.0.1:")


def known_users(run: Path) -> list[str]:
    """A few users whom the run's features know; none where the run's first stage is not here."""
    import pyarrow.parquet as pq

    path = run / "etl" / "users.parquet"
    if not path.is_file():
        return []
    batch = next(pq.ParquetFile(path).iter_batches(_NUM_KNOWN_USERS, columns=["raw_id"]), None)
    return [] if batch is None else [str(user) for user in batch["raw_id"].to_pylist()]


def _told(live: Live, state: RolloutState) -> str:
    def release(number: int) -> str:
        identity = state.releases[number]
        as_of = datetime.fromtimestamp(identity["as_of"], UTC).strftime("%Y-%m-%d %H:%M")
        return f"release {number} ({identity['run']}, as of {as_of})"

    if live.candidate is None:
        return release(live.stable)
    share = f"{live.share:.3g} of the users"
    what = f"for {share}" if live.mode == "canary" else f"as a shadow of {share}"
    return f"{release(live.candidate)} {what}, in experiment {live.experiment!r}, beside {release(live.stable)}"
