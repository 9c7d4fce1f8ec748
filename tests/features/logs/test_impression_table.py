"""Adapter `impressions`: any table with a label, what it gives of each row, and what it says when it cannot go on."""

import gzip
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter, ValidationError

from features.logs import LogError
from features.logs.impression_config import ImpressionTableConfig
from features.logs.impression_table import ImpressionTable
from features.logs.quarantine import Quarantine
from features.split import SplitConfig, SplitError

CSV = """who,what,when,stars,mood,weight,tags
u1,a,100,5,glad,1.5,x|y
u2,b,200,3,,-2,
u1,b,300,4,sad,,y
u3,c,400,1,glad,nan,x
u2,a,500,2,sad,0.25,z|z
u3,a,600,5,glad,1e3,x
u1,c,700,4.5,glad,7,y
u2,c,800,3.5,sad,8,x
u3,b,900,4,glad,9,x
u1,a,1000,1,glad,10,x
"""
OPTIONS: dict[str, Any] = {
    "label": "stars",
    "positive_from": 4,
    "timestamp": "when",
    "user_id": "who",
    "item_id": "what",
    "categorical": {"mood": "mood"},
    "continuous": {"weight": "weight"},
    "lists": {"tags": "tags"},
}


def log_of(path: Path, text: str = CSV, **options: Any) -> ImpressionTable:
    path.write_text(text)
    config = TypeAdapter(ImpressionTableConfig).validate_python({"path": str(path)} | OPTIONS | options)
    return ImpressionTable(config, SplitConfig(valid_share=0.2, test_share=0.2))


def read(log: ImpressionTable) -> tuple[list[dict[str, Any]], list[tuple[int, str]]]:
    """Rows with their part and line, and the (line, reason) of each row in quarantine."""
    quarantine, rows = Quarantine(), []
    for block in log.blocks(0, quarantine):
        assert tuple(block.columns.column_names) == log.columns.names
        for values, part, line in zip(block.columns.to_pylist(), block.part, block.lines, strict=True):
            rows.append(values | {"part": int(part), "line": int(line)})
    return rows, [(number, reason) for _, _, number, reason, _ in quarantine.rows]


# What is read ---------------------------------------------------------------------------------------------------------


def test_each_row_has_its_label_its_features_and_the_part_of_its_moment(tmp_path: Path) -> None:
    rows, bad = read(log_of(tmp_path / "log.csv"))
    assert bad == []
    assert [row["label"] for row in rows] == [1, 0, 1, 0, 0, 1, 1, 0, 1, 0]
    assert [row["part"] for row in rows] == [0] * 6 + [1] * 2 + [2] * 2
    assert [row["line"] for row in rows] == list(range(2, 12))
    assert [row["weight"] for row in rows[:6]] == [1.5, -2.0, None, None, 0.25, 1000.0]
    assert [row["mood"] for row in rows[:3]] == ["glad", None, "sad"]
    assert [row["tags"] for row in rows[:3]] == [["x", "y"], [], ["y"]]
    assert rows[0]["user_id"] == "u1" and rows[0]["item_id"] == "a" and rows[0]["timestamp"] == 100


def test_the_order_of_the_file_does_not_change_a_rows_part(tmp_path: Path) -> None:
    head, *lines = CSV.splitlines(keepends=True)
    rows, _ = read(log_of(tmp_path / "log.csv", head + "".join(lines[::-1])))
    assert [row["part"] for row in rows] == [2] * 2 + [1] * 2 + [0] * 6


def test_labels_of_0_and_1_need_no_threshold(tmp_path: Path) -> None:
    text = "y,t,c\n" + "".join(f"{row % 2},{row},{row % 3}\n" for row in range(20))
    log = log_of(
        tmp_path / "log.csv",
        text,
        label="y",
        positive_from=None,
        timestamp="t",
        user_id=None,
        item_id=None,
        categorical={"c": "c"},
        continuous={},
        lists={},
    )
    rows, bad = read(log)
    assert bad == [] and [row["label"] for row in rows] == [row % 2 for row in range(20)]
    assert log.columns.group is None


@pytest.mark.parametrize("suffix", ["csv.gz", "tsv", "parquet"])
def test_other_forms_of_the_file_give_the_same_rows(tmp_path: Path, suffix: str) -> None:
    expected, _ = read(log_of(tmp_path / "log.csv"))
    path = tmp_path / f"log.{suffix}"
    log = log_of(path)
    if suffix == "csv.gz":
        path.write_bytes(gzip.compress(CSV.encode()))
    elif suffix == "tsv":
        path.write_text(CSV.replace(",", "\t"))
    else:
        cells = [line.split(",") for line in CSV.splitlines()]
        columns: dict[str, Any] = dict(zip(cells[0], map(list, zip(*cells[1:], strict=True)), strict=True))
        columns["when"] = [int(value) for value in columns["when"]]
        columns["stars"] = [float(value) for value in columns["stars"]]
        columns["weight"] = [float(value) if value else None for value in columns["weight"]]
        columns["tags"] = [[tag for tag in value.split("|") if tag] for value in columns["tags"]]
        pq.write_table(pa.table(columns), path)
    rows, bad = read(log)
    first = 1 if suffix == "parquet" else 2
    assert bad == [] and [row["line"] for row in rows] == list(range(first, first + 10))
    assert [row | {"line": 0} for row in rows] == [row | {"line": 0} for row in expected]


def test_features_of_users_and_items_are_joined_and_unknown_where_the_table_has_no_row(tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_text("id,age,job\nu1,30,cook\nu3,,spy\nu9,99,none\n")
    (tmp_path / "items.csv").write_text("id,kinds,year\na,k1 k2,1990\nb,,2001\n")
    log = log_of(
        tmp_path / "log.csv",
        users={
            "path": str(tmp_path / "users.csv"),
            "user_id": "id",
            "categorical": {"job": "job"},
            "continuous": {"age": "age"},
        },
        items={
            "path": str(tmp_path / "items.csv"),
            "item_id": "id",
            "continuous": {"year": "year"},
            "lists": {"kinds": "kinds"},
            "list_separator": " ",
        },
    )
    rows, bad = read(log)
    assert bad == []
    assert [row["user_job"] for row in rows[:4]] == ["cook", None, "cook", "spy"]
    assert [row["user_age"] for row in rows[:4]] == [30.0, None, 30.0, None]
    assert [row["item_kinds"] for row in rows[:4]] == [["k1", "k2"], [], [], []]
    assert [row["item_year"] for row in rows[:4]] == [1990.0, 2001.0, 2001.0, None]
    assert [path.name for path in log.files()[0]] == ["log.csv", "users.csv", "items.csv"]


def test_named_files_are_the_parts_and_need_no_time(tmp_path: Path) -> None:
    for name in ("valid", "test"):
        (tmp_path / f"{name}.csv").write_text(CSV)
    options = {"timestamp": None, "valid": str(tmp_path / "valid.csv"), "test": str(tmp_path / "test.csv")}
    log = log_of(tmp_path / "train.csv", **options)
    rows, _ = read(log)
    assert [row["part"] for row in rows] == [0] * 10 + [1] * 10 + [2] * 10
    assert log.split() is None
    (tmp_path / "more.csv").write_text(CSV)
    later = replace(log, append=(str(tmp_path / "more.csv"),))
    assert [int(part) for block in later.blocks(1, Quarantine()) for part in block.part] == [0] * 10


def test_with_later_files_time_divides_all_rows_anew(tmp_path: Path) -> None:
    log = log_of(tmp_path / "log.csv")
    head, *lines = CSV.splitlines(keepends=True)
    (tmp_path / "more.csv").write_text(head + "".join(line.replace("00,", "000,", 1) for line in lines))
    later = replace(log, append=(str(tmp_path / "more.csv"),))
    rows, _ = read(later)
    moments = np.array([row["timestamp"] for row in rows])
    part = np.array([row["part"] for row in rows])
    assert len(rows) == 20 and not later.keeps_parts
    assert moments[part == 0].max() < moments[part == 1].min() <= moments[part == 1].max() < moments[part == 2].min()


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("u1,a,2000,good,glad,1,x", "label is not a number"),
        ("u1,a,2000,,glad,1,x", "label is not a number"),
        ("u1,a,2000,inf,glad,1,x", "label is not a number"),
        ("u1,a,later,5,glad,1,x", "timestamp is not a number"),
        ("u1,a,,5,glad,1,x", "timestamp is not a number"),
        (",a,2000,5,glad,1,x", "user_id: empty id"),
        ("u1,,2000,5,glad,1,x", "item_id: empty id"),
        ("u1,a,2000,5,glad,heavy,x", "weight is not a number"),
        ("u1,a,2000,5,glad,inf,x", "weight is not a number"),
        ("u1,a,2000,5,glad,-inf,x", "weight is not a number"),
        ("u1,a,2000,5,glad", "7 columns expected, 5 found"),
    ],
)
def test_a_row_that_cannot_be_used_goes_to_the_quarantine_with_its_reason(
    tmp_path: Path, line: str, reason: str
) -> None:
    rows, bad = read(log_of(tmp_path / "log.csv", CSV + line + "\n"))
    assert bad == [(12, reason)]
    assert len(rows) == 10


def test_a_rating_as_label_without_a_threshold_is_told_of_the_threshold(tmp_path: Path) -> None:
    _, bad = read(log_of(tmp_path / "log.csv", positive_from=None))
    assert len(bad) == 8 and all("positive_from" in reason for _, reason in bad)


def test_a_missing_column_is_named_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"no column 'start' \(data.impressions.label\).*did you mean 'stars'"):
        read(log_of(tmp_path / "log.csv", label="start"))


def test_one_moment_for_all_rows_cannot_be_split(tmp_path: Path) -> None:
    text = "y,t,c\n" + "".join(f"{row % 2},5,{row % 3}\n" for row in range(20))
    plain = {"user_id": None, "item_id": None, "continuous": {}, "lists": {}, "categorical": {"c": "c"}}
    with pytest.raises(SplitError):
        read(log_of(tmp_path / "log.csv", text, label="y", positive_from=None, timestamp="t", **plain))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timestamp": None}, "the split by time needs timestamp"),
        ({"valid": "v.csv"}, "valid and test belong together"),
        ({"valid": "v", "test": "t", "timestamp": None, "calendar": True}, "calendar needs timestamp"),
        ({"valid": "v", "test": "t", "timestamp": None, "as_of": ["user_id"]}, "as_of needs timestamp"),
        ({"as_of": ["weight"]}, "'weight' is none"),
        ({"as_of": ["user_id+colour"]}, "'colour' is none"),
        ({"group": "weight"}, "'weight' is none"),
        ({"user_id": None, "users": {"path": "u.csv", "user_id": "id"}}, "users is joined by user_id"),
        ({"item_id": None, "history": 5}, "history needs item_id"),
        ({"hidden": ["item_id"], "history": 5}, "item_id, which is hidden"),
        ({"continuous": {"mood": "weight"}}, "'mood' is used twice"),
        ({"continuous": {"hour": "weight"}}, "'hour' is taken"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        log_of(tmp_path / "log.csv", **options)
