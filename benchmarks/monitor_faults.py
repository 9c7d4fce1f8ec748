"""Does the monitor name what is wrong, and is it silent when nothing is?

The test period of a run on a made world is served day by day; five kinds of faults, their subject and size by chance.
Then the smallest fault that it still finds. Prints one JSON line a question.
python benchmarks/monitor_faults.py [RUN] [NUM_SEEDS] [REQUESTS_A_DAY]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipelines.monitor.config import MonitorConfig
from pipelines.monitor.judged_days import JudgedDays, is_named
from pipelines.monitor.made_days import FAULTS, Fault, Kind

GOOD_DAYS = 20
SIZES: dict[Kind, tuple[float, ...]] = {
    "shifted_feature": (0.2, 0.4, 0.6, 0.8),
    "new_category": (0.01, 0.02, 0.05, 0.1),
    "broken_join": (0.02, 0.05, 0.1, 0.2, 0.3),
    "stale_store": (1.0, 1.5, 2.0, 3.0),
    "popularity_spike": (0.02, 0.04, 0.06, 0.1),
    "skew": (0.005, 0.01, 0.02, 0.05),
}
"""Spreads, shares of users or events, and days: Fault.size."""


def main(run: Path, num_seeds: int, num_requests: int) -> None:
    with TemporaryDirectory() as scratch:
        judged = JudgedDays(run, Path(scratch), num_requests, MonitorConfig())
        num_days = min(GOOD_DAYS, judged.days.num_days - 1)
        for line in chain(
            _good_days(judged, num_days),
            _faults(judged, num_days, num_seeds),
            _small_faults(judged, num_days, num_seeds),
        ):
            print(json.dumps(line | _where(run, num_requests)), flush=True)


def _good_days(judged: JudgedDays, num_days: int) -> Iterator[dict[str, Any]]:
    found = {number: judged.judged(number) for number in range(1, num_days + 1)}
    alarms = {number: [cause.kind for cause in one.causes] for number, one in found.items() if one.causes}
    yield _line("false alarms in good days", len(alarms), "days with one", num_days, num_days // 20, "lower") | {
        "alarms": alarms
    }
    wrong = sum(one.skew.num_differing for one in found.values())
    compared = sum(one.skew.num_compared for one in found.values())
    yield _line("requests said to differ without skew", wrong, "requests", compared, 0, "lower")


def _faults(judged: JudgedDays, num_days: int, num_seeds: int) -> Iterator[dict[str, Any]]:
    for kind in FAULTS:
        named, said = 0, []
        for seed in range(1, num_seeds + 1):
            fault = judged.days.drawn(kind, seed)
            found = judged.judged(1 + 3 * seed % num_days, seed, fault)
            named += is_named(found, fault)
            if not is_named(found, fault):
                said.append([fault.subject, round(fault.size, 3), [cause.kind for cause in found.causes]])
        yield _line(f"{kind} named as the first cause", named, "cases", num_seeds, 0.9 * num_seeds, "higher") | {
            "missed": said
        }


def _small_faults(judged: JudgedDays, num_days: int, num_seeds: int) -> Iterator[dict[str, Any]]:
    """How often a fault is named, by its size."""
    for kind, sizes in SIZES.items():
        share: Counter[float] = Counter()
        for size in sizes:
            for seed in range(1, num_seeds + 1):
                drawn = Fault(kind, "user_num_events") if kind == "skew" else judged.days.drawn(kind, seed)
                fault = replace(drawn, size=size)
                share[size] += is_named(judged.judged(2 + 3 * seed % (num_days - 1), seed, fault), fault)
        of_size = {str(size): share[size] / num_seeds for size in sizes}
        yield _line(f"{kind}, named by size", 0, "share of cases", num_seeds, None, "higher") | {"ours": of_size}


def _line(question: str, ours: float, unit: str, size: int, goal: float | None, better: str) -> dict[str, Any]:
    met = None if goal is None else ours <= goal if better == "lower" else ours >= goal
    return {
        "benchmark": "monitor_faults",
        "question": question,
        "ours": ours,
        "peer": None,
        "unit": unit,
        "ratio": None,
        "goal": goal,
        "better": better,
        "met": met,
        "size": size,
    }


def _where(run: Path, num_requests: int) -> dict[str, Any]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    return {"runs": 1, "run": run.name, "requests": num_requests, "cores": os.cpu_count(), "commit": commit}


if __name__ == "__main__":
    given = sys.argv[1:]
    main(
        Path(given[0] if given else "runs/demo"),
        int(given[1]) if len(given) > 1 else 10,
        int(given[2]) if len(given) > 2 else 600,
    )
