import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import norm

from features.drift import Drift, drift_lines, population_stability_index, schema_drift
from features.profile import profile_tables

Change = Callable[[dict[str, Any]], dict[str, Any]]


def log(seed: int, rows: int) -> dict[str, Any]:
    """Columns of every kind; equal laws for all seeds."""
    rng = np.random.default_rng(seed)
    return {
        "user_id": pa.array([f"0{number}" for number in rng.integers(0, 300, rows)]),
        "timestamp": pa.array(10**9 + seed * 10**6 + rng.integers(0, 10**6, rows)),
        "price": pa.array(rng.lognormal(0, 1, rows), mask=rng.random(rows) < 0.1),
        "colour": pa.array(rng.choice(["red", "green", "blue"], rows)),
        "tags": pa.array([["a", "b", "c"][:k] for k in rng.integers(0, 4, rows)]),
    }


def drifts(change: Change, vocabularies: dict | None = None, rows: int = 3_000) -> list[Drift]:
    """Findings between a log and a later one, changed."""
    options = {"keys": {"log": ("user_id",)}, "times": {"log": "timestamp"}}
    fitted = profile_tables({"log": pa.table(log(0, 20_000))}, **options)
    new = pa.table(change(log(1, rows)))
    options["keys"] = {"log": ("user_id",) if "user_id" in new.column_names else ()}
    came = profile_tables({"log": new}, **options, fitted=fitted, vocabularies=vocabularies and {"log": vocabularies})
    return [drift for drift in schema_drift(fitted, came) if drift.check not in ("duplicate keys",)]


def found(results: list[Drift]) -> list[tuple[str, str, str]]:
    return [(drift.severity, drift.column, drift.check) for drift in results]


@pytest.mark.parametrize("rows", [1, 20, 300, 20_000])
def test_later_rows_of_the_same_kind_are_no_drift(rows: int) -> None:
    results = [drift for drift in drifts(lambda columns: columns, rows=rows) if drift.severity != "info"]
    assert results == []


def test_a_missing_column_is_an_error_that_names_its_likely_new_name() -> None:
    def renamed(columns: dict) -> dict:
        return {"Price" if name == "price" else name: values for name, values in columns.items()}

    missing, new = drifts(renamed)
    assert (missing.severity, missing.column, missing.check) == ("error", "price", "missing")
    assert missing.expected == "number, Float64" and "Price" in missing.action
    assert (new.severity, new.column, new.check, new.came) == ("warning", "Price", "new", "number, Float64")


@pytest.mark.parametrize(
    ("column", "values", "severity"),
    [
        ("price", ["cheap", "dear"], "error"),
        ("price", [["a"], []], "error"),
        ("price", [1, 2], "info"),
        ("colour", [["red"], []], "error"),
        ("colour", [1, 2], "warning"),
        ("colour", pa.array(["red", "blue"]).dictionary_encode(), None),
        ("tags", ["a|b", "c"], "error"),
        ("tags", [[1], [2]], "warning"),
        ("timestamp", ["2020-01-01", "2020-01-02"], "error"),
        ("timestamp", pa.array([2**31, 2**31 + 1], pa.timestamp("s")), "info"),
        ("user_id", [1, 2], "warning"),
    ],
)
def test_a_type_is_an_error_where_it_cannot_be_read(column: str, values: Any, severity: str | None) -> None:
    values = values if isinstance(values, pa.Array) else pa.array(values)
    results = drifts(lambda columns: columns | {column: pa.concat_arrays([values] * 500)}, rows=1_000)
    types = [drift for drift in results if drift.check == "type" and drift.column.startswith(column)]
    assert [drift.severity for drift in types] == ([severity] if severity else [])


def test_a_column_that_came_empty_is_a_warning_and_not_a_wrong_type() -> None:
    results = drifts(lambda columns: columns | {"price": pa.nulls(3_000), "tags": pa.nulls(3_000)})
    assert found(results) == [("warning", "price", "nulls"), ("warning", "tags", "nulls")]
    assert results[0].expected.startswith("1") and results[0].came == "100.00%"


def test_numbers_in_another_unit_leave_range_mean_and_distribution() -> None:
    def in_cents(columns: dict) -> dict:
        return columns | {"price": pa.array([price and 100 * price for price in columns["price"].to_pylist()])}

    results = drifts(in_cents)
    assert found(results) == [("warning", "price", check) for check in ("mean", "range", "distribution")]
    assert "standard deviations" in results[0].came and "% of 2,7" in results[1].came


def test_one_value_outside_the_range_is_only_said() -> None:
    def with_outlier(columns: dict) -> dict:
        return columns | {"price": pa.array([*columns["price"].to_pylist()[:-1], -1.0])}

    assert [entry for entry in found(drifts(with_outlier)) if entry[2] == "range"] == [("info", "price", "range")]


def test_unseen_categories_are_counted_for_attributes_ids_and_lists() -> None:
    def changed(columns: dict) -> dict:
        rows = len(columns["colour"])
        return columns | {
            "colour": pa.array(["mauve" if row % 4 == 0 else "red" for row in range(rows)]),
            "user_id": pa.array([f"new{row % 50}" if row % 2 else "01" for row in range(rows)]),
            "tags": pa.array([["a", "z"]] * rows),
        }

    results = {drift.column: drift for drift in drifts(changed) if drift.check == "unseen"}
    assert {column: drift.severity for column, drift in results.items()} == {"colour": "warning", "tags[]": "warning"}
    assert results["colour"].came == "25.00% of 3,000 rows with another"
    known = {"user_id": [f"0{number}" for number in range(300)], "colour": ["red", "mauve"]}
    results = {drift.column: drift for drift in drifts(changed, known) if drift.check == "unseen"}
    assert {column: drift.severity for column, drift in results.items()} == {"user_id": "info", "tags[]": "warning"}
    lost = drifts(lambda columns: columns | {"user_id": pa.array(["1"] * len(columns["colour"]))}, known)
    assert [drift.severity for drift in lost if drift.check == "unseen" and drift.column == "user_id"] == ["warning"]
    assert "leading zeros" in next(drift.action for drift in lost if drift.column == "user_id")


def test_rows_before_the_end_of_the_fitted_log_are_named() -> None:
    results = drifts(lambda columns: columns | {"timestamp": log(0, 3_000)["timestamp"]})
    assert found(results) == [("warning", "timestamp", "starts early")]
    assert results[0].expected.startswith("from 2001-09-2") and "2001-09-09" in results[0].came


def test_tables_and_rows_are_compared_too() -> None:
    one = pa.table({"a": [str(number) for number in range(100)]})
    twice = pa.concat_tables([one, one])
    fitted = profile_tables({"log": one, "users": one}, keys={"log": ("a",)})
    bad = pa.table({"table": ["log"] * 50, "reason": ["no id"] * 50})
    new = profile_tables({"log": twice, "shops": one}, keys={"log": ("a",)}, quarantine=bad, fitted=fitted)
    results = schema_drift(fitted, new)
    assert [(drift.severity, drift.table, drift.check) for drift in results] == [
        *(("warning", "log", check) for check in ("quarantined", "duplicate rows", "duplicate keys")),
        ("warning", "shops", "table"),
        ("info", "users", "table"),
    ]
    empty = profile_tables({"log": one.slice(0, 0), "users": one}, fitted=fitted)
    assert [(drift.table, drift.check) for drift in schema_drift(fitted, empty)] == [("log", "rows")]


def test_the_index_is_its_formula_and_its_bound_holds_under_no_drift() -> None:
    p, q = np.array([10.5, 20.5, 70.5]) / 101.5, np.array([300.5, 200.5, 500.5]) / 1001.5
    index, _ = population_stability_index([10, 20, 70], [300, 200, 500])
    assert index == pytest.approx(sum(b * math.log(b / a) - a * math.log(b / a) for a, b in zip(p, q, strict=True)))
    assert population_stability_index([5, 5], [500, 500])[0] == 0
    rng, alarms = np.random.default_rng(0), 0
    for _ in range(2_000):
        first, second = (rng.multinomial(rows, [0.1] * 10).tolist() for rows in (5_000, 300))
        index, bound = population_stability_index(first, second)
        alarms += index > bound
    assert alarms <= norm.ppf(0.999) * math.sqrt(2_000 * 0.001) + 2  # 2 expected


def test_profiles_alone_suffice_for_missing_columns_types_and_means() -> None:
    fitted = profile_tables({"log": pa.table({"a": [1.0, 2.0, 3.0] * 50, "b": ["x"] * 150})})
    new = profile_tables({"log": pa.table({"a": [7.0, 8.0, 9.0] * 50})})
    assert found(schema_drift(fitted, new)) == [("error", "b", "missing"), ("warning", "a", "mean")]


def test_lines_are_a_table_that_data_cannot_break() -> None:
    drift = Drift(
        severity="error",
        table="items",
        column="[red]\x1b[31m",
        check="type",
        expected="number, Float64",
        came="category, String",
        action="deliver it as Float64, or fit anew",
    )
    lines = drift_lines([drift], width=140)
    assert len(lines) == 3 and lines[0].split()[:3] == ["severity", "column", "check"]
    assert r"items.[red]\x1b[31m" in lines[2] and "deliver it as Float64, or fit anew" in lines[2]
    assert max(len(line) for line in drift_lines([drift], width=60)) <= 60
    assert drift_lines([]) == ["no drift: the new tables look like those that the features were fitted on"]
