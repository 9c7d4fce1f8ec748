"""What `cascade ope` does."""

from __future__ import annotations

from argparse import Namespace

from pipelines.commands import CommandError
from pipelines.report_file import write_report


def ope(options: Namespace) -> None:
    """Evaluate, print a table, and write JSON where --out names a file."""
    if options.overrides and not options.policy:
        raise CommandError(f"{' '.join(options.overrides)}: keys of the configuration are for --policy; leave them out")
    report = _open_bandit(options)
    if options.out:
        write_report(report, options.out)
        print(f"wrote {options.out}")


def _open_bandit(options: Namespace) -> dict:
    from pipelines.ope.open_bandit import evaluate_open_bandit
    from pipelines.ope.tables import print_evaluation

    report = evaluate_open_bandit(options.obd, options.level, options.seed)
    for one in report["evaluations"]:
        title = f"{one['campaign']}: {one['policy']} from the log of {one['log']}, {one['rows']:,} rows"
        print_evaluation(title, {"its own log": one["on_policy"]} | one["estimates"], one, options.level)
    return report
