"""Adapter `tables`: what it reads, what it sets aside, and what it says when it cannot go on."""

import gzip
import re
import tomllib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from features.logs import DataConfig, LogError, Logs, read_logs, text_file

CONFIGS = Path(__file__).resolve().parents[3] / "pipelines" / "configs"
COLUMNS = {"user_id": "user", "item_id": "item", "timestamp": "time"}
LOG = "user,item,time\nu1,i1,10\nu2,i2,20\nu1,i2,30\n"


def data_config(tables: dict, share: float = 1.0) -> DataConfig:
    values = {"adapter": "tables", "tables": tables, "max_quarantined_share": share}
    return TypeAdapter(DataConfig).validate_python(values)


def table(path: Path, content: str | bytes, **config: object) -> dict:
    """Write a file; the config of its table."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return {"path": str(path), **config}


def read(folder: Path, log: str | bytes = LOG, *, name: str = "log.csv", share: float = 1.0, **options: object) -> Logs:
    return read_logs(data_config({"interactions": table(folder / name, log, **COLUMNS, **options)}, share))


def read_with(folder: Path, **sides: dict) -> Logs:
    """Read LOG with a table of users or items."""
    return read_logs(data_config({"interactions": table(folder / "log.csv", LOG, **COLUMNS), **sides}))


def bad_rows(logs: Logs) -> list[tuple[int, str]]:
    return [(row["line"], row["reason"]) for row in logs.quarantine.to_pylist()]


# What is read ---------------------------------------------------------------------------------------------------------


def test_interactions_alone_give_users_and_items_without_features(tmp_path: Path) -> None:
    logs = read(tmp_path)
    expected = {"user_id": ["u1", "u2", "u1"], "item_id": ["i1", "i2", "i2"], "timestamp": [10, 20, 30]}
    assert logs.interactions.to_pydict() == expected
    assert logs.users.to_pydict() == {"user_id": ["u1", "u2"]}
    assert logs.items.to_pydict() == {"item_id": ["i1", "i2"], "title": ["", ""]}
    assert logs.rows_read == {"interactions": 3, "users": 0, "items": 0}
    assert logs.quarantine.num_rows == 0


def test_ids_stay_as_they_stand(tmp_path: Path) -> None:
    logs = read(tmp_path, "user,item,time\n007,0108775015,1\n 7,Å\u00a0x,2\n")
    assert logs.interactions["user_id"].to_pylist() == ["007", " 7"]
    assert logs.interactions["item_id"].to_pylist() == ["0108775015", "Å\u00a0x"]


def test_features_have_the_types_of_the_contract_and_unknown_ones_are_null(tmp_path: Path) -> None:
    users = table(tmp_path / "users.csv", "user,years,land\nu1,31.5,SE\nu3,NaN,\n", user_id="user")
    users |= {"categorical": {"country": "land"}, "continuous": {"age": "years"}}
    items = table(tmp_path / "items.csv", "item,name,kinds\ni1,Lamp, a|b||c\ni3,,\n", item_id="item", title="name")
    items |= {"lists": {"tags": "kinds"}}
    logs = read_with(tmp_path, users=users, items=items)
    assert logs.users.to_pylist() == [
        {"user_id": "u1", "country": "SE", "age": 31.5},
        {"user_id": "u2", "country": None, "age": None},
        {"user_id": "u3", "country": None, "age": None},
    ]
    assert logs.items.to_pylist() == [
        {"item_id": "i1", "title": "Lamp", "tags": ["a", "b", "c"]},
        {"item_id": "i2", "title": "", "tags": []},
        {"item_id": "i3", "title": "", "tags": []},
    ]
    assert logs.users.schema.types == [pa.string(), pa.string(), pa.float64()]
    assert logs.items.schema.field("tags").type == pa.list_(pa.string())
    assert logs.rows_read == {"interactions": 3, "users": 2, "items": 2}
    assert (logs.user_features.names, logs.item_features.names) == (("country", "age"), ("tags",))


@pytest.mark.parametrize(
    ("day_2", "day_9", "options"),
    [
        ("86400", "691200", {}),
        ("86400.9", "691200", {}),
        ("8.64e4", " 691200 ", {}),
        ("86400000", "691200000", {"timestamp_unit": "ms"}),
        ("1970-01-02", "1970-01-09", {"timestamp_format": "%Y-%m-%d"}),
        ("1970-1-2", "1970-01-09", {"timestamp_format": "%Y-%m-%d"}),
        ("02.01.1970 01:00 +0100", "09.01.1970 00:00 +0000", {"timestamp_format": "%d.%m.%Y %H:%M %z"}),
        ("1970-01-02 00:00:00.75", "1970-01-09 00:00:00.0", {"timestamp_format": "%Y-%m-%d %H:%M:%S.%f"}),
        ("1970-01-02", "1970-01-09", {"timestamp_format": "iso8601"}),
        ("1970-01-02T02:00:00.5+02:00", "1970-01-09T00:00:00Z", {"timestamp_format": "iso8601"}),
        ("1970-01-02T00:00:00Z", "1970-01-09", {"timestamp_format": "iso8601"}),
    ],
)
def test_a_timestamp_is_read_in_every_form(tmp_path: Path, day_2: str, day_9: str, options: dict) -> None:
    logs = read(tmp_path, f"user,item,time\nu1,i1,{day_2}\nu2,i2,{day_9}\n", **options)
    assert logs.interactions["timestamp"].to_pylist() == [86_400, 691_200]


def test_csv_tsv_gzip_parquet_and_a_folder_give_the_same_tables(tmp_path: Path) -> None:
    expected = read(tmp_path)
    parquet = pa.BufferOutputStream()
    columns = {"user": ["u1", "u2", "u1"], "item": ["i1", "i2", "i2"], "time": [10, 20, 30]}
    pq.write_table(pa.table(columns), parquet)
    files = {
        "log.tsv": LOG.replace(",", "\t").encode(),
        "log.csv.gz": gzip.compress(LOG.encode()),
        "log.tsv.gz": gzip.compress(LOG.replace(",", "\t").encode()),
        "windows.csv": b"\xef\xbb\xbf" + LOG.replace("\n", "\r\n").encode(),
        "no_last_line_feed.csv": LOG.rstrip().encode(),
        "blank_lines.csv": LOG.replace("\n", "\n\n").encode(),
        "quoted.csv": LOG.replace("u1", '"u1"').encode(),
        "log.parquet": parquet.getvalue().to_pybytes(),
    }
    for name, content in files.items():
        logs = read(tmp_path, content, name=name)
        assert logs.interactions.equals(expected.interactions), name
        assert (logs.rows_read, logs.quarantine.num_rows) == (expected.rows_read, 0), name
    parts = tmp_path / "parts"
    parts.mkdir()
    (parts / "_SUCCESS").touch()
    (parts / "1.csv").write_text("user,item,time\nu1,i1,10\n")
    (parts / "2.csv").write_text("user,item,time\nu2,i2,20\nu1,i2,30\n")
    logs = read_logs(data_config({"interactions": {"path": str(parts), **COLUMNS}}))
    assert logs.interactions.equals(expected.interactions)


def test_parquet_ids_may_be_integers_times_dates_and_lists_lists(tmp_path: Path) -> None:
    log = {
        "user": pa.array([7, 8], pa.int64()),
        "item": pa.array(["01", "2"]).dictionary_encode(),
        "time": pa.array([86_400_000, 691_200_000], pa.timestamp("ms")),
    }
    pq.write_table(pa.table(log), tmp_path / "log.parquet")
    items = {"item": ["01", "2"], "tags": pa.array([["a", None, "b"], None]), "size": pa.array([1.5, float("nan")])}
    pq.write_table(pa.table(items), tmp_path / "items.parquet")
    config = {"path": str(tmp_path / "items.parquet"), "item_id": "item", "lists": {"tags": "tags"}}
    config["continuous"] = {"size": "size"}
    tables = {"interactions": {"path": str(tmp_path / "log.parquet"), **COLUMNS}, "items": config}
    logs = read_logs(data_config(tables))
    rows = [
        {"user_id": "7", "item_id": "01", "timestamp": 86_400},
        {"user_id": "8", "item_id": "2", "timestamp": 691_200},
    ]
    assert logs.interactions.to_pylist() == rows
    assert logs.items["tags"].to_pylist() == [["a", "b"], []]
    assert logs.items["size"].to_pylist() == [1.5, None]


def test_a_file_without_header_and_without_quoting_is_read(tmp_path: Path) -> None:
    log = 'u1;5" lamp;1\nu2;i2;2\n'
    logs = read(tmp_path, log, delimiter=";", quote="", column_names=["user", "item", "time"])
    assert logs.interactions["item_id"].to_pylist() == ['5" lamp', "i2"]


def test_a_quoted_value_may_span_lines_and_line_numbers_still_hold(tmp_path: Path) -> None:
    text = 'item,name\ni1,"two\nlines, and ""quotes"""\ni2,plain\ni2,again\n'
    logs = read_with(tmp_path, items=table(tmp_path / "items.csv", text, item_id="item", title="name"))
    assert logs.items["title"].to_pylist() == ['two\nlines, and "quotes"', "plain"]
    assert bad_rows(logs) == [(5, "item_id is a duplicate")]


def test_rows_below_min_value_are_dropped_and_counted(tmp_path: Path) -> None:
    log = "user,item,time,stars\nu1,i1,1,5\nu1,i2,2,3.5\nu2,i2,3,4\nu2,i1,4,x\n"
    logs = read(tmp_path, log, value="stars", min_value=4)
    assert logs.interactions["timestamp"].to_pylist() == [1, 3]
    assert logs.rows_dropped == {"below_min_value": 1}
    assert bad_rows(logs) == [(5, "value is not a number")]


def test_the_path_may_name_environment_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table(tmp_path / "log.csv", LOG)
    monkeypatch.setenv("CASCADE_DATA", str(tmp_path))
    assert read_logs(data_config({"interactions": {"path": "${CASCADE_DATA}/log.csv", **COLUMNS}})).users.num_rows == 2
    monkeypatch.delenv("CASCADE_DATA")
    (tmp_path / "shared" / "data").mkdir(parents=True)
    (tmp_path / "work").mkdir()
    table(tmp_path / "shared" / "data" / "log.csv", LOG)
    monkeypatch.chdir(tmp_path / "work")
    assert read_logs(data_config({"interactions": {"path": "${CASCADE_DATA}/log.csv", **COLUMNS}})).users.num_rows == 2
    with pytest.raises(LogError, match="NO_SUCH_VARIABLE is not set"):
        read_logs(data_config({"interactions": {"path": "${NO_SUCH_VARIABLE}/log.csv", **COLUMNS}}))


# What is set aside ----------------------------------------------------------------------------------------------------

BAD_LINES = {
    "u1,i1": "3 columns expected, 2 found",
    "u1,i1,5,6": "3 columns expected, 4 found",
    ",i1,5": "user_id: empty id",
    "u1,  ,5": "item_id: empty id",
    "u" * 257 + ",i1,5": "user_id: id longer than 256 bytes",
    "u1,a\tb,5": "item_id: id with a control character",
    "u1,i1,": "timestamp is not a number",
    "u1,i1,soon": "timestamp is not a number",
    "u1,i1,nan": "timestamp is not a number",
    "u1,i1,inf": "timestamp is not a number",
    "u1,i1,0x10": "timestamp is not a number",
    "u1,i1,-1": "timestamp before 1970",
    "u1,i1,1700000000000": "timestamp after the year 2199 (is timestamp_unit right?)",
    'u1,"i1,5': "quote is opened and not closed",
    'u1,1"5 x,"5': "quote is opened and not closed",
    "u1,i\r1,5": "carriage return inside a row",
}


@pytest.mark.parametrize("line", BAD_LINES)
def test_a_bad_line_is_set_aside_with_its_place_reason_and_text(tmp_path: Path, line: str) -> None:
    logs = read(tmp_path, f"user,item,time\nu1,i1,10\n{line}\nu2,i2,20\n")
    path = str(tmp_path / "log.csv")
    expected = {"table": "interactions", "file": path, "line": 3, "reason": BAD_LINES[line], "text": line}
    assert logs.quarantine.to_pylist() == [expected]
    assert logs.interactions["timestamp"].to_pylist() == [10, 20]


def test_bytes_that_are_not_utf8_are_set_aside_and_shown_as_escapes(tmp_path: Path) -> None:
    logs = read(tmp_path, b"user,item,time\nu1,i1,10\n\xff\xfe,i1,11\nu2,i2,20\n")
    row = logs.quarantine.to_pylist()[0]
    assert (row["line"], row["reason"], row["text"]) == (3, "user_id: not UTF-8 text", r"\xff\xfe,i1,11")
    assert logs.interactions.num_rows == 2


def test_bytes_that_are_not_utf8_in_a_row_with_too_few_columns_are_set_aside(tmp_path: Path) -> None:
    logs = read(tmp_path, b"user,item,time\nu1,i1,10\n\xff,i1\nu2,i2,20\n")
    row = logs.quarantine.to_pylist()[0]
    assert (row["line"], row["reason"], row["text"]) == (3, "3 columns expected, 2 found", r"\xff,i1")
    assert logs.interactions.num_rows == 2


def test_an_impossible_date_is_set_aside(tmp_path: Path) -> None:
    log = "user,item,time\nu1,i1,2024-02-31\nu1,i1,2024-02-29\nu2,i2,2024-03-01\nu2,i2,1969-12-31\n"
    logs = read(tmp_path, log, timestamp_format="%Y-%m-%d")
    assert bad_rows(logs) == [(2, "timestamp is not a time of the form %Y-%m-%d"), (5, "timestamp before 1970")]


def test_users_with_a_second_row_or_a_broken_number_are_set_aside(tmp_path: Path) -> None:
    text = "user,years\nu1,31\nu2,old\nu1,32\nu2,40\nu2,inf\n"
    users = table(tmp_path / "users.csv", text, user_id="user", continuous={"age": "years"})
    logs = read_with(tmp_path, users=users)
    assert logs.users.to_pydict() == {"user_id": ["u1", "u2"], "age": [31.0, 40.0]}
    assert bad_rows(logs) == [(3, "age is not a number"), (6, "age is not a number"), (4, "user_id is a duplicate")]


def test_duplicates_are_found_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_file, "BLOCK_BYTES", 16)
    text = "user,land\n" + "".join(f"u{index % 7},SE\n" for index in range(20))
    users = table(tmp_path / "users.csv", text, user_id="user", categorical={"country": "land"})
    logs = read_with(tmp_path, users=users)
    assert logs.users["user_id"].to_pylist() == [f"u{index}" for index in range(7)]
    assert [line for line, _ in bad_rows(logs)] == list(range(9, 22))


GOOD_FIELD = st.text(
    st.characters(codec="utf-8", exclude_characters='",\r\n', exclude_categories=["C", "Z"]), min_size=1
)
GOOD_LINE = st.builds(
    lambda user, item, time: f"{user[:40]},{item[:40]},{time}", GOOD_FIELD, GOOD_FIELD, st.integers(0, 10**9)
)
NOISE = st.text('",xy1\r\t é', min_size=1, max_size=12)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(GOOD_LINE | NOISE, max_size=30), block=st.sampled_from([7, 64, 1 << 20]))
def test_every_line_is_used_dropped_or_set_aside(tmp_path: Path, lines: list[str], block: int) -> None:
    anchors = ["user A,item A,1", "user B,item B,2"]
    body = "\n".join([*anchors, *lines, ""]).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_file, "BLOCK_BYTES", block)
        patch.setattr(text_file, "MAX_RECORD_LINES", 1)
        logs = read(tmp_path, b"user,item,time\n" + body)
    num_rows = sum(line not in ("", "\r") for line in body.decode().split("\n"))
    assert logs.rows_read["interactions"] == num_rows
    assert num_rows == logs.interactions.num_rows + sum(logs.rows_dropped.values()) + logs.quarantine.num_rows
    raw = body.decode().split("\n")
    for row in logs.quarantine.to_pylist():
        assert raw[row["line"] - 2].removesuffix("\r") == row["text"]
    good = {line for line in lines if re.fullmatch(r'[^",\r\n]+,[^",\r\n]+,\d+', line) and not re.search(r"[\s]", line)}
    assert not good & {row["text"] for row in logs.quarantine.to_pylist() if row["text"].count(",") == 2}


# What it says when it cannot go on ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("log", "options", "message"),
    [
        ("", {}, "log.csv: the file is empty"),
        ("user,item,time\n", {}, "the log is empty: 0 rows read"),
        (
            "user,item,tim\nu1,i1,1\n",
            {},
            r"no column 'time' \(data.tables.interactions.timestamp\).*did you mean 'tim'",
        ),
        ("user;item;time\nu1;i1;1\n", {}, "read as one column: set the delimiter"),
        ("user,user,item,time\n", {}, "2 columns are called 'user'"),
        ("user,item,time\nu1,i1,1\nu1,i2,2\n", {}, "user_id holds only one id, 'u1', in 2 rows: one class only"),
        ("user,item,time\nu1,i1,1\nu2,i1,2\n", {}, "item_id holds only one id, 'i1'"),
        ("user,item,time\nu1,i1,7\nu2,i2,7\n", {}, "all 2 rows have the same timestamp, 7"),
        (LOG, {"value": "time", "min_value": 99}, "3 rows read, 3 below_min_value dropped.*lower .*min_value"),
        (LOG, {"timestamp_format": "%Q"}, "timestamp_format '%Q' cannot be used"),
        (b"\xff\xfe\x00" + LOG.encode(), {}, "the header line is not UTF-8"),
    ],
)
def test_a_log_that_cannot_be_used_says_why(tmp_path: Path, log: str, options: dict, message: str) -> None:
    with pytest.raises(LogError, match=message):
        read(tmp_path, log, **options)


def test_a_missing_file_names_its_key(tmp_path: Path) -> None:
    config = data_config({"interactions": {"path": str(tmp_path / "none.csv"), **COLUMNS}})
    with pytest.raises(LogError, match=r"none.csv: there is no such file \(data.tables.interactions.path"):
        read_logs(config)


def test_damaged_files_are_no_traceback(tmp_path: Path) -> None:
    whole = gzip.compress(LOG.encode() * 1000)
    with pytest.raises(LogError, match="cannot be read to its end"):
        read(tmp_path, whole[: len(whole) // 2], name="log.csv.gz")
    with pytest.raises(LogError, match="not a readable Parquet file"):
        read(tmp_path, b"PAR1 no", name="log.parquet")


def test_floating_parquet_ids_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"user": [1.0], "item": ["a"], "time": [1]}), tmp_path / "log.parquet")
    with pytest.raises(LogError, match=r"column 'user' .*has type double; ids must be text or integers"):
        read_logs(data_config({"interactions": {"path": str(tmp_path / "log.parquet"), **COLUMNS}}))


def test_too_many_bad_rows_stop_the_run_with_counts_and_an_example(tmp_path: Path) -> None:
    log = LOG + "u1,i1\n" * 2 + ",i1,5\n"
    with pytest.raises(LogError, match=r"3 of 6 rows.*2 x 3 columns expected, 2 found; 1 x user_id: empty id.*line 5"):
        read(tmp_path, log, share=0.4)
    assert read(tmp_path, log, share=0.5).interactions.num_rows == 3


def test_a_column_full_of_nulls_is_refused(tmp_path: Path) -> None:
    users = table(tmp_path / "users.csv", "user,years\nu1,\nu2,\n", user_id="user", continuous={"age": "years"})
    with pytest.raises(LogError, match="users: feature column age is empty in all 2 rows"):
        read_with(tmp_path, users=users)
    items = table(tmp_path / "items.csv", "item,tags\ni1,\ni2,|\n", item_id="item", lists={"tags": "tags"})
    with pytest.raises(LogError, match="items: feature column tags is empty"):
        read_with(tmp_path, items=items)


def test_a_user_table_with_other_ids_is_refused(tmp_path: Path) -> None:
    users = table(tmp_path / "users.csv", "user,land\n001,SE\n", user_id="user", categorical={"country": "land"})
    with pytest.raises(
        LogError, match="none of its 1 ids stands in the interactions: user_id is for example '001' here"
    ):
        read_with(tmp_path, users=users)


def test_the_config_refuses_what_cannot_work() -> None:
    with pytest.raises(ValidationError, match=r"needs \[data.tables.interactions\]"):
        TypeAdapter(DataConfig).validate_python({"adapter": "tables"})
    for wrong in ({"valu": "x"}, {"min_value": 4}, {"delimiter": "ab"}):
        with pytest.raises(ValidationError):
            data_config({"interactions": {"path": "log.csv", **COLUMNS, **wrong}})
    items = {"path": "items.csv", "item_id": "item", "categorical": {"title": "name"}}
    with pytest.raises(ValidationError, match="'title' is taken"):
        data_config({"interactions": {"path": "log.csv", **COLUMNS}, "items": items})


# The configs ----------------------------------------------------------------------------------------------------------


def test_the_template_loads_after_the_paths_are_filled_in(tmp_path: Path) -> None:
    values = tomllib.loads((CONFIGS / "template.toml").read_text())
    contents = {
        "interactions": "user_id,item_id,timestamp\n0042,a,1\n7,b,2\n",
        "users": "user_id,country,age\n0042,SE,40\n",
        "items": "item_id,title,brand,price,tags\na,Lamp,X,9.5,red|blue\n",
    }
    for name, content in contents.items():
        values["data"]["tables"][name] |= table(tmp_path / f"{name}.csv", content)
    logs = read_logs(TypeAdapter(DataConfig).validate_python(values["data"]))
    assert logs.users["user_id"].to_pylist() == ["0042", "7"]
    assert logs.items["tags"].to_pylist() == [["red", "blue"], []]


def test_every_option_in_the_template_is_a_key_of_the_config() -> None:
    text = (CONFIGS / "template.toml").read_text()
    users = text.index("[data.tables.users]")
    options = re.findall(r"^# (\w+ = .+)$", text[:users], flags=re.MULTILINE)
    assert len(options) >= 7
    for option in options:
        extra = tomllib.loads(option) | ({"value": "v", "min_value": 1} if "value" in option else {})
        data_config({"interactions": {"path": "log.csv", **COLUMNS, **extra}})


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "rows", "used"),
    [
        ("movielens", {"interactions": 100_000, "users": 943, "items": 1682}, (943, 1682)),
        ("movielens-small", {"interactions": 100_836, "users": 0, "items": 9742}, (610, 9742)),
    ],
)
def test_movielens_is_read_whole(
    name: str, rows: dict, used: tuple[int, int], cascade_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CASCADE_DATA", str(cascade_data))
    values = tomllib.loads((CONFIGS / f"{name}.toml").read_text())
    logs = read_logs(TypeAdapter(DataConfig).validate_python(values["data"]))
    assert logs.rows_read == rows
    assert logs.quarantine.num_rows == 0
    assert logs.interactions.num_rows == rows["interactions"]
    assert (logs.users.num_rows, logs.items.num_rows) == used
    titles = dict(zip(logs.items["item_id"].to_pylist(), logs.items["title"].to_pylist(), strict=True))
    assert titles["1"].startswith("Toy Story")
