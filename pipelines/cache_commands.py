"""What `cascade cache` does."""

from __future__ import annotations

import time
from argparse import Namespace
from pathlib import Path

from pipelines.commands import CommandError, repository, run_folder, saved_config


def cache(options: Namespace) -> None:
    """Make the slates that are served when a part of the request path is down, or alone."""
    from features.artifact import open_artifact
    from pipelines.cache_build import build_cache
    from pipelines.stages import print_now
    from pipelines.user_list import UserList

    if options.processes < 1:
        raise CommandError(f"--processes must be at least 1, got {options.processes}")
    run = run_folder(options)
    config = saved_config(options, run)
    out = Path(config.serving.cache.in_folder(run / "serve").file)
    out.parent.mkdir(exist_ok=True)
    users = UserList.open(open_artifact(run / "etl", "etl").file("users.parquet"), "raw_id")
    begun = time.monotonic()
    version_folder = repository(run) / "cascade" / "1"
    num_users = build_cache(version_folder, users, options.k, out, config.serving, options.processes)
    seconds = time.monotonic() - begun
    megabytes = out.stat().st_size / 1e6
    print_now(f"wrote {out}: {num_users:,} users, {megabytes:,.1f} MB in {seconds:.0f} s; servers read it at once")
