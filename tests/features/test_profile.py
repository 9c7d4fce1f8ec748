import json
import math
import os
import subprocess
import sys
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.profile import ProfileError, printable, profile_tables


def profiled(table: pa.Table | dict, **options: Any) -> dict:
    """The profile of one table."""
    source = table if isinstance(table, pa.Table) else pa.table(table)
    tables: dict[str, Any] = {
        name: {"table": value} for name, value in options.items() if name in ("keys", "times", "vocabularies")
    }
    return profile_tables({"table": source}, **(options | tables))["tables"]["table"]


def column_of(values, **options) -> dict:
    return profiled({"column": values}, **options)["columns"]["column"]


def six_digits(value: float) -> float:
    return float(f"{value:.6g}")


@pytest.fixture
def interactions() -> pa.Table:
    rng = np.random.default_rng(7)
    n = 30_000
    return pa.table(
        {
            "user_id": pa.array((2_000 * rng.random(n) ** 2).astype(int).astype(str)),
            "item_id": pa.array(rng.integers(0, 500, n).astype(str)).dictionary_encode(),
            "timestamp": 1_500_000_000 + rng.integers(0, 400 * 86_400, n),
            "price": pa.array(rng.lognormal(0, 2, n), mask=rng.random(n) < 0.1),
            "tags": pa.array([["a", "b", "c"][: k % 4] if k < 9 else None for k in rng.integers(0, 10, n)]),
        }
    )


LAYOUT = {"keys": ("user_id", "item_id", "timestamp"), "times": "timestamp"}


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(0).normal(3, 2, 10_001),
        np.random.default_rng(1).lognormal(0, 3, 10_000),
        np.random.default_rng(2).integers(-1_000, 1_000, 5_000),
        np.random.default_rng(3).normal(1e9, 1, 5_000),
        -np.random.default_rng(4).pareto(0.5, 5_000),
        np.array([0.25]),
        np.array([7, 7, 7]),
    ],
    ids=["normal", "log-normal", "integers", "far from 0", "negative tail", "one", "constant"],
)
def test_numbers_are_those_of_numpy(values: np.ndarray) -> None:
    column = column_of(values)
    percents = (1, 5, 25, 50, 75, 95, 99)
    expected = np.quantile(values, [percent / 100 for percent in percents], method="inverted_cdf")
    assert list(column["quantiles"].values()) == pytest.approx(list(expected), rel=1e-5)
    found = [column[name] for name in ("min", "max", "mean", "std")]
    assert found == pytest.approx([values.min(), values.max(), values.mean(), values.std()], rel=1e-5, abs=1e-12)
    assert column["cardinality"] == len(np.unique(values)) and column["cardinality_exact"]
    edges, counts = column["histogram"]["edges"], column["histogram"]["counts"]
    assert 1 <= len(counts) == len(edges) - 1 <= 40
    assert edges == sorted(set(edges)) and sum(counts) == len(values)
    inner = [0, *np.searchsorted(np.sort(values), edges[1:-1]), len(values)]
    assert counts == np.diff(inner).tolist()


def test_a_heavy_tail_does_not_put_all_rows_into_one_bin() -> None:
    values = np.random.default_rng(0).lognormal(0, 3, 10_000)
    tailed, even = column_of(values), column_of(np.random.default_rng(0).normal(size=10_000))
    assert (tailed["histogram"]["spacing"], even["histogram"]["spacing"]) == ("asinh", "linear")
    assert max(tailed["histogram"]["counts"]) < 0.35 * len(values) < np.histogram(values, 40)[0].max()


def test_every_bin_of_whole_numbers_holds_equally_many_of_them() -> None:
    ratings = column_of([1, 2, 2, 5])["histogram"]
    assert ratings["edges"] == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5] and ratings["counts"] == [1, 2, 0, 0, 1]
    ages = column_of(np.arange(17, 100))["histogram"]
    assert set(ages["counts"][:-1]) == {3} and sum(ages["counts"]) == 83


def test_nan_is_null_and_infinity_is_counted_and_left_out() -> None:
    column = column_of([1.0, math.nan, None, math.inf, -math.inf, 3.0, -0.0, 0.0])
    assert column["nulls"] == {"count": 2, "share": 0.25} and column["infinite"] == 2
    assert (column["min"], column["max"], column["mean"], column["cardinality"]) == (0.0, 3.0, 1.0, 3)
    assert json.dumps(column["top"][0]) == '{"value": 0.0, "count": 2}'


@pytest.mark.parametrize("values", [[1e308, -1e308, 5.0], [5e-324, 1e-323], [1e-300, 1e300], [2**62, 1]])
def test_extreme_numbers_give_finite_numbers(values: list) -> None:
    column = column_of(values)
    assert sum(column["histogram"]["counts"]) == len(values)
    json.dumps(column, allow_nan=False)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.none() | st.sampled_from(["a", "b", "ä", "", " "]),
            st.none() | st.integers(-3, 3),
            st.none() | st.lists(st.none() | st.sampled_from(["x", "y"]), max_size=3),
        ),
        max_size=30,
    )
)
def test_counts_are_those_of_a_counter(rows: list[tuple]) -> None:
    text, number, tags = ([row[place] for row in rows] for place in range(3))
    types = {"text": pa.string(), "number": pa.int64(), "tags": pa.list_(pa.string())}
    arrays = [pa.array(values, kind) for values, kind in zip((text, number, tags), types.values(), strict=True)]
    table = profiled(pa.table(arrays, names=list(types)), keys=("text", "number"))
    hashable = [(*row[:2], None if row[2] is None else tuple(row[2])) for row in rows]
    assert table["duplicate_rows"]["count"] == len(rows) - len(set(hashable))
    assert table["duplicate_keys"]["count"] == len(rows) - len({row[:2] for row in rows})
    elements = [element for value in tags if value for element in value]
    for column, values in ((table["columns"]["text"], text), (table["columns"]["tags"]["elements"], elements)):
        counter = Counter(value for value in values if value is not None)
        assert column["nulls"]["count"] == values.count(None) and column["cardinality"] == len(counter)
        assert {entry["value"]: entry["count"] for entry in column["top"]} == counter
        assert [entry["count"] for entry in column["top"]] == sorted(counter.values(), reverse=True)
    lengths = [len(value) for value in tags if value is not None]
    assert table["columns"]["tags"]["length"]["max"] == max(lengths, default=None)
    assert table["columns"]["tags"]["cardinality"] == len({row[2] for row in hashable} - {None})


def test_kinds_come_from_type_role_and_words() -> None:
    titles = [f"The {number} ways of words" for number in range(300)]
    table = profiled(
        {
            "id": pa.array(range(300)),
            "time": pa.array(range(300)),
            "day": pa.array([date(2020, 1, 1)] * 300),
            "amount": pa.array([1.5] * 300),
            "flag": pa.array([True, False] * 150),
            "colour": pa.array(["light blue"] * 300),
            "title": pa.array(titles),
            "code": pa.array([f"c{number}" for number in range(300)]),
            "tags": pa.array([["a"]] * 300),
            "pair": pa.array([{"a": 1}] * 300),
            "bytes": pa.array([b"\xff"] * 300),
            "nothing": pa.nulls(300),
        },
        keys=("id", "time"),
        times="time",
    )
    kinds = {name: column["kind"] for name, column in table["columns"].items()}
    assert kinds == {
        **{"id": "category", "time": "time", "day": "time", "amount": "number", "flag": "category"},
        **{"colour": "category", "title": "text", "code": "category", "tags": "list"},
        **{"pair": "category", "bytes": "category", "nothing": "category"},
    }
    assert [name for name, column in table["columns"].items() if "rows_per_id" in column] == ["id"]
    assert table["columns"]["title"]["length"]["max"] == len(titles[-1])
    assert table["columns"]["pair"]["top"] == [{"value": '{"a":1}', "count": 300}]


def test_top_values_are_the_most_frequent_and_ties_go_by_value() -> None:
    values = [f"v{number:03}" for number in range(100) for _ in range(2)] + ["last"] * 5
    top = column_of(values)["top"]
    assert [entry["value"] for entry in top] == ["last", *(f"v{number:03}" for number in range(19))]
    assert column_of([str(number) for number in range(100)])["top"] == []  # no value is frequent
    long = column_of(["x" * 500, "y"])["top"]
    assert [entry["value"] for entry in long] == ["x" * 63 + "…", "y"]


@pytest.mark.parametrize("distinct", [21, 22, 40, 3_000])
def test_the_twenty_most_frequent_values_are_all_there(distinct: int) -> None:
    rng = np.random.default_rng(distinct)
    values = [f"v{number:04}" for number in range(distinct) for _ in range(rng.integers(2, 10 * distinct % 99 + 5))]
    expected = sorted(Counter(values).items(), key=lambda entry: (-entry[1], entry[0]))[:20]
    shuffled = rng.permutation(values)
    assert [(entry["value"], entry["count"]) for entry in column_of(shuffled)["top"]] == expected
    assert [
        (entry["value"], entry["count"]) for entry in column_of(np.char.lstrip(shuffled, "v").astype(int))["top"]
    ] == [(int(value[1:]), rows) for value, rows in expected]


def test_rows_per_id_are_as_unequal_as_the_definition_of_gini_says() -> None:
    rows = np.random.default_rng(0).geometric(0.1, 250)
    ids = np.repeat(np.arange(250).astype(str), rows)
    of = column_of(np.random.default_rng(1).permutation(ids), keys=("column",))["rows_per_id"]
    gini = np.abs(rows[:, None] - rows[None]).mean() / (2 * rows.mean())
    assert of["gini"] == pytest.approx(gini, rel=1e-5)
    assert of["top_1_percent_share"] == six_digits(np.sort(rows)[-3:].sum() / rows.sum())
    assert (of["min"], of["max"], of["mean"]) == (rows.min(), rows.max(), six_digits(rows.mean()))
    assert of["quantiles"]["p95"] == np.quantile(rows, 0.95, method="inverted_cdf")


def test_equal_tables_give_equal_profiles_however_they_are_cut_and_ordered(
    interactions: pa.Table, tmp_path: Path
) -> None:
    shuffled = interactions.take(np.random.default_rng(0).permutation(len(interactions)))
    parts = [shuffled.slice(0, 11), shuffled.slice(11, 20_000), shuffled.slice(20_011)]
    for number, part in enumerate(parts):
        pq.write_table(part, tmp_path / f"{number}.parquet", row_group_size=999)
    options = {"keys": {"table": LAYOUT["keys"]}, "times": {"table": LAYOUT["times"]}}
    for limit in (100, 10**6):
        whole = profile_tables({"table": interactions}, **options, distinct_limit=limit)
        paths = [tmp_path / f"{number}.parquet" for number in (2, 0, 1)]
        for source in (tmp_path, paths):
            assert json.dumps(profile_tables({"table": source}, **options, distinct_limit=limit)) == json.dumps(whole)


def test_the_number_of_threads_changes_nothing(interactions: pa.Table, tmp_path: Path) -> None:
    pq.write_table(interactions, tmp_path / "table.parquet", row_group_size=1_000)
    code = (
        "import json, sys; from pathlib import Path; import polars as pl; from features.profile import profile_tables\n"
        "assert pl.thread_pool_size() == int(sys.argv[2])\n"
        "for limit in (100, 10**6):\n"
        "    profile = profile_tables({'t': Path(sys.argv[1])}, keys={'t': ('user_id',)}, distinct_limit=limit)\n"
        "    print(json.dumps(profile))"
    )
    said = []
    for threads in ("1", "4"):
        command = [sys.executable, "-c", code, str(tmp_path / "table.parquet"), threads]
        environment = os.environ | {"POLARS_MAX_THREADS": threads}
        said.append(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
    assert said[0] == said[1] and len(said[0]) > 1_000


def test_beyond_the_limit_counts_are_estimates_that_say_so() -> None:
    rng = np.random.default_rng(0)
    rare, often = rng.integers(0, 20_000, 60_000).astype(str), np.repeat(["often", "oftener"], [3_000, 4_000])
    ids = column_of(np.concatenate([rare, often]), keys=("column",), distinct_limit=1_000)
    distinct = len(np.unique(rare)) + 2
    assert not ids["cardinality_exact"] and ids["cardinality"] == pytest.approx(distinct, rel=0.1)
    counter = Counter(np.concatenate([rare, often]).tolist())
    assert [entry["value"] for entry in ids["top"][:2]] == ["oftener", "often"]
    assert {entry["value"]: entry["count"] for entry in ids["top"]}.items() <= counter.items()
    most = [rows for _, rows in counter.most_common(len(ids["top"]))]
    assert [entry["count"] for entry in ids["top"]] == most  # fewer than 20 perhaps, but no other is more frequent
    of = ids["rows_per_id"]
    assert of["sampled_share"] < 0.06 and of["quantiles"]["p50"] == 3 and of["mean"] == pytest.approx(3, rel=0.1)

    numbers = rng.lognormal(0, 1, 20_000)
    exact, estimated = column_of(numbers), column_of(numbers, distinct_limit=1_000)
    assert not estimated["cardinality_exact"] and estimated["cardinality"] == pytest.approx(20_000, rel=0.1)
    assert estimated["quantiles"] == exact["quantiles"]
    assert [estimated[name] for name in ("min", "max", "mean", "std")] == [
        exact[name] for name in ("min", "max", "mean", "std")
    ]


def test_times_give_a_series_that_holds_every_row(interactions: pa.Table) -> None:
    column = profiled(interactions, **LAYOUT)["columns"]["timestamp"]
    series, seconds = column["series"], np.sort(interactions["timestamp"].to_numpy())
    assert series["step_seconds"] == 7 * 86_400 and len(series["counts"]) <= 200
    start = np.datetime64(series["start"], "s").astype(int)
    assert series["counts"] == np.bincount((seconds - start) // series["step_seconds"]).tolist()
    assert (column["min"], column["max"]) == tuple(str(np.datetime64(int(s), "s")) for s in (seconds[0], seconds[-1]))


@pytest.mark.parametrize(
    ("seconds", "step"),
    [
        ([0, 3_600, 7_201], 3_600),
        ([0, 86_400, 3 * 86_400], 86_400),
        ([-86_401, 86_400 * 100], 86_400),
        ([0, 86_400 * 365 * 100], 27 * 7 * 86_400),
        ([-(10**14), 10**14], None),
    ],
    ids=["hours", "days without hours", "before 1970", "a century", "no time at all"],
)
def test_the_step_of_a_series_suits_its_span(seconds: list[int], step: int | None) -> None:
    series = column_of(seconds, times="column")["series"]
    assert sum(series["counts"]) == len(seconds) and len(series["counts"]) <= 200
    assert series["counts"][0] and series["counts"][-1]
    assert step is None or series["step_seconds"] == step


def test_dates_and_seconds_of_the_same_days_are_the_same_times() -> None:
    days = np.array(["2019-12-31", "2020-01-01", "2020-03-01"], "datetime64[D]")
    as_date, as_seconds = column_of(days), column_of(days.astype("datetime64[s]").astype(int), times="column")
    assert {**as_date, "type": ""} == {**as_seconds, "type": ""}


def test_quarantined_rows_are_counted_by_reason(tmp_path: Path) -> None:
    reasons = ["no id"] * 3 + ["bad time"] * 5 + [f"reason {number}" for number in range(30)]
    bad = pa.table({"table": ["table"] * 38 + ["other"], "reason": [*reasons, "no id"], "text": ["x"] * 39})
    pq.write_table(bad, tmp_path / "quarantine.parquet")
    table = profiled({"a": [1, 2]}, quarantine=tmp_path / "quarantine.parquet")
    assert table["rows_read"] == 40 and table["quarantined"]["count"] == 38
    found = table["quarantined"]["reasons"]
    assert list(found.items())[:2] == [("bad time", 5), ("no id", 3)]
    assert len(found) == 21 and found["other reasons"] == 12
    read = profile_tables({"table": pa.table({"a": [1]})}, rows_read={"table": 50}, quarantine=bad)["tables"]["table"]
    assert (read["rows_read"], read["quarantined"]["share"]) == (50, 0.76)


def test_a_new_table_is_counted_in_the_bins_and_values_of_the_fitted_one() -> None:
    values = ["a"] * 5 + ["b"] * 3 + ["x" * 100] * 2
    old = pa.table({"number": [float(n) for n in range(10)], "text": values, "list": [[v] for v in values]})
    fitted = profile_tables({"t": old})
    same = profile_tables({"t": old}, fitted=fitted)["tables"]["t"]["columns"]
    counts = fitted["tables"]["t"]["columns"]["number"]["histogram"]["counts"]
    assert same["number"]["on_fitted"] == {"counts": counts, "below": 0, "above": 0}
    shown = {"a": 5, "b": 3, "x" * 63 + "…": 2}
    assert same["text"]["on_fitted"] == same["list"]["elements"]["on_fitted"] == {"counts": shown, "others": 0}

    new = pa.table(
        {"number": [-1.0, 3.0, 11.0, 12.0], "text": ["b", "c", None, "c"], "list": [["a", "z"], [], None, []]}
    )
    vocabularies = {"t": {"text": ["a", "b"], "list": ["a", "b"]}}
    came = profile_tables({"t": new}, fitted=fitted, vocabularies=vocabularies)["tables"]["t"]["columns"]
    assert (came["number"]["on_fitted"]["below"], came["number"]["on_fitted"]["above"]) == (1, 2)
    assert sum(came["number"]["on_fitted"]["counts"]) == 4
    assert came["text"]["on_fitted"] == {"counts": {"a": 0, "b": 1, "x" * 63 + "…": 0}, "others": 2}
    assert came["text"]["unseen"] == {"count": 2, "share": six_digits(2 / 3)}
    assert came["list"]["elements"]["unseen"] == {"count": 1, "share": 0.5}


def test_an_empty_table_and_strange_names_are_profiled() -> None:
    types = {"^a.*$": pa.string(), "*": pa.float64(), "x": pa.list_(pa.string()), "rows": pa.int64()}
    schema = pa.schema(list(types.items()))
    empty = profiled(schema.empty_table(), keys=("^a.*$", "rows"), times="rows")
    assert empty["rows"] == 0 and list(empty["columns"]) == list(types)
    assert empty["columns"]["*"]["mean"] is None and empty["columns"]["rows"]["min"] is None
    one = profiled(pa.table([["v"], [1.0], [["v"]], [5]], schema=schema), keys=("^a.*$", "*"))
    assert [column["cardinality"] for column in one["columns"].values()] == [1] * 4
    nulls = profiled(pa.table([pa.nulls(3, kind) for kind in types.values()], schema=schema), times="rows")
    assert {column["nulls"]["share"] for column in nulls["columns"].values()} == {1.0}
    assert profile_tables({"t": schema.empty_table()}, fitted=profile_tables({"t": schema.empty_table()}))


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=r"'table' needs the columns user \(keys or times\), got a"):
        profiled({"a": [1]}, keys=("user",))
    with pytest.raises(ProfileError, match="nowhere"):
        profile_tables({"table": tmp_path / "nowhere.parquet"})
    with pytest.raises(ProfileError, match="no such file"):
        profile_tables({"table": tmp_path})


def test_printable_text_steers_no_terminal() -> None:
    assert printable("a ä 漢\x1b[31m\u202e\n") == r"a ä 漢\x1b[31m\u202e\n"


@pytest.mark.realdata
def test_movielens_is_as_its_readme_says(cascade_data: Path, tmp_path: Path) -> None:
    options = pyarrow.csv.ParseOptions(delimiter="\t")
    ratings = pyarrow.csv.read_csv(cascade_data / "ml-100k" / "ml-100k.inter", parse_options=options)
    ratings = ratings.rename_columns([name.split(":")[0] for name in ratings.column_names])
    pq.write_table(ratings.cast(ratings.schema.set(3, pa.field("timestamp", pa.int64()))), tmp_path / "ratings.parquet")
    profile = profile_tables(
        {"ratings": tmp_path / "ratings.parquet"},
        keys={"ratings": ("user_id", "item_id")},
        times={"ratings": "timestamp"},
    )["tables"]["ratings"]
    columns = profile["columns"]
    assert (profile["rows"], profile["duplicate_keys"]["count"]) == (100_000, 0)
    assert [columns[name]["cardinality"] for name in ("user_id", "item_id", "rating")] == [943, 1682, 5]
    assert (columns["user_id"]["rows_per_id"]["min"], columns["rating"]["histogram"]["counts"][0]) == (20, 6110)
    assert (columns["timestamp"]["min"][:10], columns["timestamp"]["max"][:10]) == ("1997-09-20", "1998-04-22")
