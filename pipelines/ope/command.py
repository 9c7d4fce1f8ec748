"""What `cascade ope` does."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.commands import CommandError, repository, saved_config
from pipelines.ope.shown_slates import ShownSlates, read_shown_slates, usable_rows
from pipelines.report_file import write_report

_SECONDS_AN_HOUR = 3_600


def ope(options: Namespace) -> None:
    """Evaluate, print a table, and write JSON where --out names a file."""
    if options.overrides and not options.policy:
        raise CommandError(f"{' '.join(options.overrides)}: keys of the configuration are for --policy; leave them out")
    if bool(options.log) == bool(options.obd):
        raise CommandError("needs one of --log FOLDER (a request log) and --obd FOLDER (the Open Bandit Dataset)")
    asked = [name for name in ("policy", "ab", "teams") if getattr(options, name)]
    if options.log and len(asked) != 1:
        raise CommandError(
            "--log needs one of --policy RUN (whose slates are evaluated), --ab (compare its arms) and --teams FILE "
            "(compare interleaved rankings)"
        )
    evaluate = _open_bandit if options.obd else _logged if options.policy else _compared
    report = evaluate(options)
    if options.out:
        write_report(report, options.out)
        print(f"wrote {options.out}")


def _open_bandit(options: Namespace) -> dict[str, Any]:
    from pipelines.ope.open_bandit import evaluate_open_bandit
    from pipelines.ope.tables import print_evaluation

    report = evaluate_open_bandit(options.obd, options.level, options.seed)
    for one in report["evaluations"]:
        title = f"{one['campaign']}: {one['policy']} from the log of {one['log']}, {one['rows']:,} rows"
        print_evaluation(title, {"its own log": one["on_policy"]} | one["estimates"], one, options.level)
    return report


def _logged(options: Namespace) -> dict[str, Any]:
    from ensemble.pipeline import Pipeline
    from pipelines.ope.logged_policy import evaluate_logged
    from pipelines.ope.other_policy import OtherPolicy
    from pipelines.ope.tables import print_slates

    cuts = _cuts(options.places)
    shown = read_shown_slates(options.log)
    rows, left_out = usable_rows(shown)
    reward_Bk = _rewards(options, shown)[rows]  # joined with all slates: an event belongs to the last one
    shown = shown.taken(rows)
    config = saved_config(options, options.policy)
    policy = OtherPolicy(Pipeline.load(repository(options.policy) / "cascade" / "1", config.serving))
    report = evaluate_logged(shown, reward_Bk, policy, cuts, options.level, options.seed)
    report |= {"log": str(options.log), "policy": str(options.policy), "left_out": left_out}
    print_slates(report)
    return report


def _compared(options: Namespace) -> dict[str, Any]:
    from pipelines.ope.arms import read_arms
    from pipelines.ope.interleaving import read_interleaved, teams
    from pipelines.ope.tables import print_arms, print_interleaved
    from pipelines.ope.user_entries import ReadOut

    if options.planned_users < 1:
        raise CommandError(f"--planned-users must be at least 1, got {options.planned_users}")
    shown = read_shown_slates(options.log)
    reward_Bk = _rewards(options, shown)
    read_out = ReadOut(options.user_hours, options.window_hours, options.level, options.planned_users)
    if options.ab:
        report = read_arms(shown, reward_Bk, options.experiment, read_out)
        print_arms(report)
    else:
        report = read_interleaved(shown, reward_Bk, teams(shown, options.teams), read_out)
        print_interleaved(report)
    return report | {"log": str(options.log)}


def _rewards(options: Namespace, shown: ShownSlates) -> np.ndarray:
    from pipelines.ope.rewards import place_values, rewards_of_events

    files: list[Path] = [file for file in (options.events, options.rewards) if file]
    if len(files) != 1:
        raise CommandError(
            "--log needs one of --events FILE (what the users did) and --rewards FILE (a reward an item)"
        )
    if options.rewards:
        return place_values(shown, options.rewards)
    return rewards_of_events(shown, options.events, options.window_hours * _SECONDS_AN_HOUR, options.timestamp_unit)


def _cuts(text: str) -> tuple[int, ...]:
    try:
        cuts = tuple(int(word) for word in text.split(","))
    except ValueError:
        cuts = ()
    if not cuts or min(cuts) < 1:
        raise CommandError(f"--places must be whole numbers from 1, separated by commas, got {text!r}")
    return cuts
