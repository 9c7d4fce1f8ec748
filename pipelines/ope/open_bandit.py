"""The Open Bandit Dataset: each of its two policies evaluated from the other's log, beside what it earned itself.

`random` shows every item of a campaign with the same probability. The probabilities of `bts` (Bernoulli Thompson
sampling, without contexts) changed all the time and are logged for what was shown only; so its policy is taken to be
the mean one, an item's share of what `bts` showed at the position. That this share is an estimate too is in the
intervals: its error is that of the mean reward, as the model foretells it, over the rows of the `bts` log.

Source: Saito, Aihara, Matsutani & Narita, "Open Bandit Dataset and Pipeline", NeurIPS 2021 (datasets and benchmarks),
which draws the probabilities of `bts` from its posterior instead; that posterior is not part of the data.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

from features.errors import CascadeError
from pipelines.ope.estimators import ESTIMATORS, Rounds, overlap
from pipelines.ope.intervals import Interval, Spread, interval
from pipelines.ope.reward_model import folds, reward_tables

# N rows  P positions  I items
POLICIES = ("random", "bts")
COLUMNS = ("item_id", "position", "click", "propensity_score")


class OpenBanditError(CascadeError, ValueError):
    """The folder does not hold the data set as it was published."""


@dataclass(frozen=True, eq=False)
class BanditLog:
    """One policy's log of one campaign, [N] each."""

    item_N: np.ndarray
    position_N: np.ndarray
    """From 0."""
    click_N: np.ndarray
    propensity_N: np.ndarray


def evaluate_open_bandit(folder: Path, level: float = 0.95, seed: int = 1) -> dict[str, Any]:
    """Every campaign that both policies have, evaluated in both directions.

    Raises: OpenBanditError if there is no such campaign, or a file is not as it was published.
    """
    logs = {policy: _campaigns(folder, policy) for policy in POLICIES}
    campaigns = sorted(logs["random"].keys() & logs["bts"].keys())
    if not campaigns:
        has = {name: sorted(found) for name, found in logs.items()}
        raise OpenBanditError(
            f"{folder}: needs POLICY/CAMPAIGN/CAMPAIGN.csv.gz (or .csv) of one campaign for both of "
            f"{' and '.join(POLICIES)}, has {has}; give the folder that "
            "holds the folders `random` and `bts`"
        )
    found = []
    for campaign in campaigns:
        both = {policy: read_log(logs[policy][campaign]) for policy in POLICIES}
        for logging, evaluated in permutations(POLICIES):
            told = {"campaign": campaign, "log": logging, "policy": evaluated}
            found.append(told | evaluated_policy(both[logging], both[evaluated], evaluated == "random", level, seed))
    return {"level": level, "seed": seed, "folder": str(folder), "evaluations": found}


def evaluated_policy(
    log: BanditLog, own: BanditLog, is_uniform: bool, level: float = 0.95, seed: int = 1
) -> dict[str, Any]:
    """What the policy of `own` is worth by `log`, and by its own log.

    Args:
        is_uniform: it shows every item alike; else its probabilities are the shares in its own log.
    """
    shape = tuple(int(max(getattr(one, name).max() for one in (log, own))) + 1 for name in ("position_N", "item_N"))
    policy_PI = np.full(shape, 1 / shape[1]) if is_uniform else shares(own, shape)
    fold_N = folds(np.arange(len(log.click_N)), seed)
    table_FPI = reward_tables(log.position_N, log.item_N, log.click_N, fold_N, shape)
    rounds = Rounds(
        reward_N=log.click_N,
        weight_N=policy_PI[log.position_N, log.item_N] / log.propensity_N,
        model_N=table_FPI[fold_N, log.position_N, log.item_N],
        direct_N=(table_FPI * policy_PI).sum(2)[fold_N, log.position_N],
    )
    of_policy = [] if is_uniform else [Spread.of(table_FPI.mean(0)[own.position_N, own.item_N])]
    estimates = {}
    for name, estimator in ESTIMATORS.items():
        influence_N = estimator(rounds)
        estimates[name] = vars(interval(float(influence_N.mean()), Spread.of(influence_N), *of_policy, level=level))
    return overlap(rounds.weight_N) | {
        "rows": len(log.click_N),
        "clicks": int(log.click_N.sum()),
        "on_policy": vars(mean_click(own, level)),
        "logged": vars(mean_click(log, level)),
        "estimates": estimates,
    }


def mean_click(log: BanditLog, level: float) -> Interval:
    return interval(float(log.click_N.mean()), Spread.of(log.click_N), level=level)


def shares(log: BanditLog, shape: tuple[int, ...]) -> np.ndarray:
    """[P, I] each item's share of what the log shows at a position."""
    count_PI = np.zeros(shape)
    np.add.at(count_PI, (log.position_N, log.item_N), 1)
    return count_PI / np.maximum(count_PI.sum(1, keepdims=True), 1)


def read_log(file: Path) -> BanditLog:
    """One file.

    Raises: OpenBanditError naming the column or the row that is wrong.
    """
    import pandas as pd

    table = pd.read_csv(file)
    if missing := [name for name in COLUMNS if name not in table]:
        raise OpenBanditError(f"{file}: has no column {missing[0]!r}; needs {', '.join(COLUMNS)}, has {[*table][:12]}")
    values = {name: table[name].to_numpy() for name in COLUMNS}
    right = {
        "item_id": values["item_id"] >= 0,
        "position": values["position"] >= 1,
        "click": np.isin(values["click"], (0, 1)),
        "propensity_score": (values["propensity_score"] > 0) & (values["propensity_score"] <= 1),
    }
    wanted = {"item_id": "0 or more", "position": "1 or more", "click": "0 or 1", "propensity_score": "in (0, 1]"}
    for name, right_N in right.items():
        if not right_N.all():
            row = int(np.argmin(right_N))
            raise OpenBanditError(
                f"{file}, row {row + 1}: {name} must be {wanted[name]}, got {values[name][row]!r}; "
                f"{np.count_nonzero(~right_N):,} of {len(right_N):,} rows are so: download the file again"
            )
    if not len(table):
        raise OpenBanditError(f"{file}: has no row; download the file again")
    return BanditLog(
        item_N=values["item_id"].astype(np.int64),
        position_N=values["position"].astype(np.int64) - 1,
        click_N=values["click"].astype(np.float64),
        propensity_N=values["propensity_score"].astype(np.float64),
    )


def _campaigns(folder: Path, policy: str) -> dict[str, Path]:
    files = [*folder.glob(f"{policy}/*/*.csv"), *folder.glob(f"{policy}/*/*.csv.gz")]
    return {file.parent.name: file for file in files if file.name.split(".")[0] == file.parent.name}
