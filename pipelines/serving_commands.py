"""What each command does that serves a run or speaks with its server; a function a command."""

from __future__ import annotations

import json
from argparse import Namespace

from pipelines.commands import ADDRESSES, CommandError, remember, remember_served, run_folder, saved_config


def serve(options: Namespace) -> None:
    """Serve until SIGINT or SIGTERM."""
    from ensemble.fallback_repository import cached_repository
    from ensemble.json_log import JsonLog
    from ensemble.rollout import prepared_repository
    from ensemble.server import TritonServer, serve_forever
    from pipelines.stages import NO_USERS

    out = run_folder(options)
    config = saved_config(options, out)
    if config.data.holds_impressions:
        raise CommandError(f"{out}: serving {NO_USERS}")
    (out / "serve").mkdir(exist_ok=True)
    remember(out)
    remember_served(out)

    addresses = out / "serve" / ADDRESSES

    def remember_addresses(server: TritonServer) -> None:
        addresses.write_text(json.dumps({"grpc": server.grpc_url, "http": server.http_url}) + "\n")
        begun.append(server)

    begun: list[TritonServer] = []
    try:
        with JsonLog(config.serving.json_log, out / "serve", process="serve"):
            if config.serving.cache.mode == "only":
                repository = cached_repository(out, out / "serve", config.serving)
            else:
                repository = prepared_repository(out, out / "serve", config.serving).folder
            serve_forever(repository, out / "serve", config.serving, remember_addresses)
    finally:
        if begun:  # another server's addresses stay
            addresses.unlink(missing_ok=True)
