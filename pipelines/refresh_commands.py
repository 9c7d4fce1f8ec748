"""What `cascade refresh` does."""

from __future__ import annotations

from argparse import Namespace


def refresh(options: Namespace) -> None:
    """Make a run from the live one and later logs, and bring it live if it is not worse."""
    from pipelines.commands import remember
    from pipelines.refresh.refresh import refresh as refreshed
    from pipelines.rollout_commands import served_folder

    deploys = options.deploy and not _has_impressions(options.run)
    refreshed(
        options.run,
        options.append,
        options.out,
        served_folder(options) if deploys else None,
        options.overrides,
    )
    remember(options.out)


def _has_impressions(run) -> bool:
    from pipelines.config import load_saved_config
    from pipelines.stages import CONFIG_FILE

    return (run / CONFIG_FILE).is_file() and load_saved_config(run / CONFIG_FILE).data.holds_impressions
