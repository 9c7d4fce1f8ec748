"""Reports of off-policy evaluation as tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from pipelines.evaluation_table import wide_console

FEW_ROUNDS, HEAVY_SHARE = 100, 0.05
"""Effective rounds below which, and share of the largest weight above which, intervals miss: docs/ope.md."""


def print_slates(report: Mapping[str, Any]) -> None:
    """Print what `evaluate_logged` returns: a table a number of places."""
    left_out = "".join(f"; left out: {number:,} that {reason}" for reason, number in report["left_out"].items())
    print(f"{report['slates']:,} slates of {report['users']:,} users{left_out}")
    print(f"the log could show {report['covered']:.1%} of what the policy would show first")
    if not report["weights_add_up"]:
        print("the weights of the first place do not average to that: the log's propensities do not fit its candidates")
    for one in report["places"]:
        if not one["effective_sample_size"]:
            print(
                f"places: the first {one['places']}: no logged slate goes on as the policy would; nothing can be said"
            )
            continue
        title = f"places: the first {one['places']}, with {one['rewards']:,.0f} rewards"
        rows = {"the log's own": one["logged"]} | one["estimates"]
        rows |= {f"{name} - the log's": of for name, of in one["differences"].items() if name in ("snips", "dr")}
        print_evaluation(title, rows, one, report["level"])


def print_arms(report: Mapping[str, Any]) -> None:
    """Print what `read_arms` returns."""
    for one in report["arms"]:
        share = one["with_reward"] / one["users"] if one["users"] else float("nan")
        print(f"{one['arm']}: {one['users']:,} users, {one['with_reward']:,} with a reward ({share:.2%})")
    if report["users_in_both_arms"]:
        print(f"left out: {report['users_in_both_arms']:,} users who are in both arms")
    told = {name: report[name] for name in ("difference", "lift", "exact_difference") if report[name]}
    _print_sequences(report, told)


def print_interleaved(report: Mapping[str, Any]) -> None:
    """Print what `read_interleaved` returns."""
    users = report["users"]
    print(f"preferred: first {users['first']:,} users, second {users['second']:,}, neither {users['tie']:,}")
    _print_sequences(report, {"preference": report["preference"]})


def _print_sequences(report: Mapping[str, Any], told: Mapping[str, Mapping[str, float]]) -> None:
    for name, one in told.items():
        bounds = f"{one['low']:+.2%} .. {one['high']:+.2%}"
        print(f"{name.replace('_', ' ')}: {one['value']:+.2%}, {report['level']:.0%} at all times {bounds}")
    if not report["is_ready"]:
        print("too few users for the normal approximation: nothing is decided yet")
    else:
        print("it may be stopped: 0 is outside" if report["may_stop"] else "not decided: 0 is inside")


def print_evaluation(
    title: str, estimates: Mapping[str, Mapping[str, float]], overlap: Mapping[str, float], level: float
) -> None:
    """Print one row an estimator.

    Args:
        overlap: of the weights.
    """
    effective = overlap["effective_sample_size"]
    caption = f"effective rounds {effective:,.0f}, mean weight {overlap['mean_weight']:.2f} (1 with full overlap), "
    caption += f"largest {overlap['largest_weight']:,.0f}, {overlap['largest_share']:.1%} of all"
    if effective < FEW_ROUNDS or overlap["largest_share"] > HEAVY_SHARE:
        caption += f"; fewer than {FEW_ROUNDS} effective rounds, or more than {HEAVY_SHARE:.0%} in one: the intervals "
        caption += "are too narrow"
    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left")
    table.add_column("estimator")
    for name in ("value", f"{level:.0%} interval", "standard error"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, one in estimates.items():
        table.add_row(name, f"{one['value']:.5f}", shown_interval(one), f"{one['standard_error']:.5f}")
    wide_console().print(table)
    print(f"{caption}\n")


def shown_interval(one: Mapping[str, float]) -> str:
    return f"{one['low']:.5f} .. {one['high']:.5f}"
