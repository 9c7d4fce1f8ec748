"""`cascade explore`: the page that shows a run's users, slates, and the reasons for them."""

from __future__ import annotations

import socket
import sys
import webbrowser
from argparse import Namespace
from contextlib import suppress
from pathlib import Path

from pipelines.commands import CommandError, run_folder, saved_config


def explore(options: Namespace) -> None:
    """Answer until SIGINT or SIGTERM.

    Raises: CommandError for a run of impressions, a folder of pictures that is not there, or a port that is taken.
    """
    import uvicorn

    from pipelines.explore.app import LOOPBACK, app_of

    with _bound(options.host, options.port) as listening:
        explorers = [_explorer(options, run) for run in (run_folder(options, out_is_run=False), options.against) if run]
        is_local = options.host in LOOPBACK
        app = app_of(explorers, LOOPBACK if is_local else ("*",))
        address = f"http://{options.host}:{listening.getsockname()[1]}/"
        print(
            f"explore {' against '.join(str(one.run) for one in explorers)} at {address} (Ctrl-C ends it)", flush=True
        )
        if not is_local:
            print(f"anybody who reaches {options.host} can read the run's users: there is no key", file=sys.stderr)
        if options.open:
            webbrowser.open(address)
        with suppress(KeyboardInterrupt):
            uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listening])


def _explorer(options: Namespace, run: Path):
    from pipelines.explore.explorer import Explorer
    from pipelines.stages import CONFIG_FILE, NO_USERS

    if not (run / CONFIG_FILE).is_file():
        raise CommandError(f"{run}: there is no such run; `cascade run --out {run}` makes one")
    config = saved_config(options, run)
    if config.data.holds_impressions:
        raise CommandError(f"{run}: exploring {NO_USERS}")
    if options.images and not options.images.is_dir():
        raise CommandError(f"--images {options.images}: there is no such folder")
    return Explorer(run, config, options.images)


def _bound(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port))
    except OSError as error:
        raise CommandError(f"cannot listen on {host}:{port} ({error.strerror}); give another --port") from error
