"""What a load test says: one document, and the same as a table."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipelines.load_test import Outcome

_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}


def document(outcome: Outcome, settings: dict[str, Any], memory: dict[str, float] | None) -> dict[str, Any]:
    """The figures of a test. Latencies are milliseconds; an empty test has none.

    Args:
        settings: how it was run, passed on.
        memory: of the server, if it runs on this machine.
    """
    num_answered = len(outcome.latency_seconds)
    return {
        **settings,
        "sent": outcome.num_sent,
        "answered": num_answered,
        "errors": dict(sorted(outcome.errors.items())),
        "checked_fully": outcome.num_checked,
        "elapsed_seconds": round(outcome.elapsed_seconds, 3),
        "calls_per_second": round(num_answered / max(outcome.elapsed_seconds, 1e-9), 2),
        "users_per_second": round(outcome.sources.total() / max(outcome.elapsed_seconds, 1e-9), 2),
        "latency_ms": quantiles_ms(outcome.latency_seconds),
        "service_ms": quantiles_ms(outcome.service_seconds),
        "generator_lag_ms": quantiles_ms(outcome.lag_seconds),
        "generator_cpu_share": round(outcome.generator_seconds / max(outcome.elapsed_seconds, 1e-9), 3),
        "sources": dict(sorted(outcome.sources.items())),
        "server_memory": memory,
    }


def quantiles_ms(seconds: list[float]) -> dict[str, float]:
    """Those that were met by a call, not points between two calls."""
    if not seconds:
        return {}
    found = np.quantile(seconds, list(_QUANTILES.values()), method="higher") * 1e3
    return {name: round(float(value), 3) for name, value in zip(_QUANTILES, found, strict=True)}


def table(told: dict[str, Any]) -> str:
    """The document for people."""
    lines = [
        f"sent       {told['sent']} calls, {told['answered']} answered, {sum(told['errors'].values())} failed",
        f"rate       {told['calls_per_second']:g} calls/s, {told['users_per_second']:g} users/s, "
        f"over {told['elapsed_seconds']:g} s",
        "",
        "ms         " + "".join(f"{name:>10}" for name in _QUANTILES),
    ]
    for name, of in (
        ("latency", "latency_ms"),  # from the intended moment
        ("service", "service_ms"),
        ("lag", "generator_lag_ms"),
    ):
        lines.append(f"{name:<11}" + "".join(f"{value:>10.2f}" for value in told[of].values()))
    lines += ["", f"served     {_counts(told['sources'])}", f"errors     {_counts(told['errors'])}"]
    lines.append(f"checked    {told['checked_fully']} replies item by item")
    lines.append(f"generator  {told['generator_cpu_share']:.0%} of a core")
    if memory := told["server_memory"]:
        lines.append(
            f"memory     {memory['first_mib']:.0f} to {memory['last_mib']:.0f} MiB, "
            f"{memory['slope_mib_per_minute']:+.2f} MiB/minute, spread {memory['spread']:.2%}"
        )
    return "\n".join(lines)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"
