"""How often do the intervals of off-policy estimates hold the truth?

Made worlds of 10 contexts and 20 items; sizes of the log, click rates, and distances of the evaluated policy from the
log's. Prints one JSON line a setting. python benchmarks/ope_coverage.py [NUM_WORLDS] [LOGS_OF_EACH]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from itertools import product

from pipelines.ope.coverage import coverage

CLICK_RATES, NUM_ROUNDS = (0.1, 0.01), (500, 2_000, 10_000)
OVERLAPS = (0.5, 1.0), (1.5, 1.0), (3.0, 1.0), (6.0, 1.0), (0.5, 2.0), (0.5, 4.0)
"""Distance of the evaluated policy, and sharpness of the log's."""
UNBIASED = ("ips", "snips", "dr")
FURTHEST = 0.02


def main(num_worlds: int, num_logs: int) -> None:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    for click_rate, num_rounds, (distance, sharpness) in product(CLICK_RATES, NUM_ROUNDS, OVERLAPS):
        found, overlap = coverage(num_worlds, num_logs, num_rounds, distance, click_rate, sharpness)
        furthest = max(abs(found[name].share - 0.95) for name in UNBIASED)
        line = {
            "benchmark": "ope_coverage",
            "question": f"share of 95 % intervals without the truth, click rate {click_rate}, distance {distance}, "
            f"sharpness {sharpness}",
            "ours": round(furthest, 4),
            "peer": 0,
            "unit": "furthest share of ips, snips and dr from 0.95",
            "ratio": None,
            "goal": FURTHEST,
            "better": "lower",
            "met": bool(furthest <= FURTHEST),
            "size": num_rounds,
            "runs": num_worlds * num_logs,
            "overlap": {name: round(one, 4) for name, one in overlap.items()},
            "estimators": {name: {key: round(one, 5) for key, one in asdict(of).items()} for name, of in found.items()},
            "cores": os.cpu_count(),
            "commit": commit,
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(*(map(int, sys.argv[1:3])) if len(sys.argv) > 2 else (200, 10))
