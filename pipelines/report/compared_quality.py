"""How two runs differ in quality: in pairs where both say what they gave each test user or impression."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.stats import norm

from pipelines.click_bootstrap import METRICS, Measured, bootstrapped, intervals
from pipelines.evaluation_values import IMPRESSIONS_FILE, USER_ID, USERS_FILE, read_values
from pipelines.report.clicks_section import HIGHER_IS_BETTER, spoken_metric
from pipelines.report.quality_section import MORE_IS_BETTER, STAGES
from pipelines.report.run_record import RunRecord
from pipelines.shown_values import NOTHING
from retrieval.metrics import bootstrap_difference

# B test users  N test impressions
BETTER, WORSE, SAME, UNCLEAR = "better", "worse", "the same", "no difference shown"
PAIRED, UNPAIRED = "paired", "not paired"


@dataclass(frozen=True)
class Compared:
    """One metric of both runs."""

    name: str
    a: Mapping[str, Any]
    b: Mapping[str, Any]
    difference: Mapping[str, Any]
    """B less A; low and high are None where the metric has no interval."""
    how: str
    higher_is_better: bool | None

    @property
    def verdict(self) -> str:
        """Of B; "higher" and "lower" where nobody can say what is better."""
        middle, low, high = (self.difference.get(key) for key in ("mean", "low", "high"))
        if middle == 0 and low in (0, None) and high in (0, None):
            return SAME
        if low is None or high is None:
            return "no interval"
        if low <= 0 <= high:
            return UNCLEAR
        if self.higher_is_better is None:
            return "higher" if low > 0 else "lower"
        return BETTER if (low > 0) == self.higher_is_better else WORSE


def compared_quality(a: RunRecord, b: RunRecord) -> list[Compared]:
    """Every metric that both have; none if one is not evaluated."""
    if a.evaluation is None or b.evaluation is None:
        return []
    return list(_clicks(a, b) if a.holds_impressions else _slates(a, b))


def unpaired_difference(a: Mapping[str, Any], b: Mapping[str, Any], levels: tuple[float, float]) -> dict[str, Any]:
    """B less A as if nothing joined their users: normal errors as wide as the two intervals say.

    Args:
        levels: probability inside the intervals of A and B; that of B holds for the result.
    """
    middle = _middle(b) - _middle(a)
    if a.get("low") is None or b.get("low") is None:
        return {"mean": middle, "low": None, "high": None}
    errors = [(one["high"] - one["low"]) / 2 / norm.ppf((1 + at) / 2) for one, at in zip((a, b), levels, strict=True)]
    reach = float(norm.ppf((1 + levels[1]) / 2) * np.hypot(*errors))
    return {"mean": middle, "low": middle - reach, "high": middle + reach}


def _slates(a: RunRecord, b: RunRecord) -> Iterator[Compared]:
    ours, theirs = ((run.evaluation or {})["systems"]["cascade"] for run in (a, b))
    protocols = [(run.evaluation or {})["protocol"]["config"] for run in (a, b)]
    paired = _paired_users(a, b)
    for stage in STAGES:
        for metric in (name for name in ours[stage] if name in theirs[stage]):
            one, other, name = ours[stage][metric], theirs[stage][metric], f"{stage} {metric}"
            values = None if paired is None else paired.get(name)
            if one["mean"] is None or other["mean"] is None:
                continue
            if values is not None and _are_those(values, one, other):
                of_a, of_b = values
                num_samples, level = protocols[1]["num_bootstrap"], protocols[1]["level"]
                found = bootstrap_difference(of_b, of_a, num_samples, seed=b.config.seed, level=level)
                difference, how = asdict(found), PAIRED
            else:
                difference = unpaired_difference(one, other, (protocols[0]["level"], protocols[1]["level"]))
                how = UNPAIRED if difference["low"] is not None else NOTHING
            yield Compared(name, one, other, difference, how, _direction(metric))


def _direction(metric: str) -> bool | None:
    return True if metric.split("@")[0] in MORE_IS_BETTER else None


def _paired_users(a: RunRecord, b: RunRecord) -> dict[str, tuple[np.ndarray, np.ndarray]] | None:
    """Column -> [B] of A and of B, user by user; None unless both have the same users."""
    tables = [read_values(run.folder, USERS_FILE) for run in (a, b)]
    if tables[0] is None or tables[1] is None:
        return None
    ours, theirs = (table.take(pc.sort_indices(table[USER_ID])) for table in tables if table is not None)
    if ours[USER_ID].type != theirs[USER_ID].type or not ours[USER_ID].equals(theirs[USER_ID]):
        return None
    names = [name for name in ours.column_names if name != USER_ID and name in theirs.column_names]
    return {name: (ours[name].to_numpy(), theirs[name].to_numpy()) for name in names}


def _are_those(values: tuple[np.ndarray, np.ndarray], a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether the values are of the evaluations that the runs hold."""
    return all(np.isclose(np.nanmean(one), of["mean"]) for one, of in zip(values, (a, b), strict=True))


def _clicks(a: RunRecord, b: RunRecord) -> Iterator[Compared]:
    ours, theirs = ((run.evaluation or {})["systems"]["cascade"] for run in (a, b))
    protocols = [(run.evaluation or {})["protocol"] for run in (a, b)]
    paired = _paired_clicks(a, b, protocols[1])
    for metric in METRICS:
        one, other = ours[metric], theirs[metric]
        if one["value"] is None or other["value"] is None:
            continue
        direction = HIGHER_IS_BETTER.get(metric)
        name = spoken_metric(metric)
        if paired is None:
            difference = unpaired_difference(one, other, (protocols[0]["level"], protocols[1]["level"]))
            yield Compared(name, one, other, difference, UNPAIRED, direction)
        else:
            found = {key: None if np.isnan(value) else float(value) for key, value in paired[metric].items()}
            yield Compared(name, one, other, found | {"mean": found["value"]}, PAIRED, direction)


def _paired_clicks(a: RunRecord, b: RunRecord, protocol: Mapping[str, Any]) -> dict[str, Any] | None:
    """Metric -> B less A on the same resamples; None unless both said something of the same impressions."""
    tables = [read_values(run.folder, IMPRESSIONS_FILE) for run in (a, b)]
    if tables[0] is None or tables[1] is None:
        return None
    ours, theirs = tables[0], tables[1]
    if ours.column_names != theirs.column_names or not ours.drop_columns("probability").equals(
        theirs.drop_columns("probability")
    ):
        return None
    group_N = ours["group"].to_numpy() if "group" in ours.column_names else None
    systems = {name: _measured(table, group_N) for name, table in (("a", ours), ("b", theirs))}
    value = {name: one.metrics() for name, one in systems.items()}
    reported = [(run.evaluation or {})["systems"]["cascade"]["log_loss"]["value"] for run in (a, b)]
    if not np.allclose([value[name][METRICS.index("log_loss")] for name in systems], reported):
        return None
    sample = bootstrapped(systems, ours.num_rows, protocol["num_bootstrap"], protocol["seed"], group_N)
    return intervals(value["b"] - value["a"], sample["b"] - sample["a"], protocol["level"])


def _measured(table: pa.Table, group_N: np.ndarray | None) -> Measured:
    return Measured(table["probability"].to_numpy(), table["label"].to_numpy(), group_N)


def _middle(one: Mapping[str, Any]) -> float:
    return one["mean"] if "mean" in one else one["value"]
