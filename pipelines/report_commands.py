"""What `cascade report` does."""

from __future__ import annotations

from argparse import Namespace


def report(options: Namespace) -> None:
    """Write the page of a run, or of what two runs differ in."""
    from pipelines.commands import CommandError, run_folder

    if options.compare is None:
        from pipelines.report import write_run_report

        if options.out:
            raise CommandError(
                f"--out {options.out} goes with --compare; the page of a run is report.html in its folder"
            )
        print(f"report: {write_run_report(run_folder(options, out_is_run=False))}")
        return
    from pipelines.report.comparison import write_comparison

    if options.run:
        raise CommandError(f"{options.run} and --compare: give one of them")
    a, b = options.compare
    print(f"report: {write_comparison(a, b, options.out)}")
