"""Adapter `criteo`: which rows it gives, which part they belong to, and what it says when it cannot go on."""

import gzip
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from features.logs import LogError, text_file
from features.logs.criteo import CRITEO_COLUMNS, CriteoConfig, criteo_blocks, criteo_files
from features.logs.impressions import ImpressionBlock
from features.logs.quarantine import Quarantine
from features.split import TEST, TRAIN, VALID

NAMES = CRITEO_COLUMNS.names
Row = dict[str, int | str | None]


def row(label: int = 0, **values: int | str | None) -> Row:
    """A row in which each column has a value of its own, but for those given."""
    integers = {name: number for number, name in enumerate(CRITEO_COLUMNS.continuous, 10)}
    categories = {name: f"{number:08x}" for number, name in enumerate(CRITEO_COLUMNS.categorical, 160)}
    return {"label": label, **integers, **categories, **values}


def line(values: Row) -> str:
    return "\t".join("" if values[name] is None else str(values[name]) for name in NAMES) + "\n"


def write(path: Path, rows: list[Row]) -> str:
    """The rows as the path's extension says; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(map(line, rows)).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


def read(config: CriteoConfig) -> tuple[list[ImpressionBlock], list[tuple[int, str]]]:
    """Blocks, and the (line, reason) of each row in quarantine."""
    quarantine = Quarantine()
    blocks = list(criteo_blocks(config, quarantine))
    assert sum(block.rows_read for block in blocks) == sum(len(b.lines) for b in blocks) + len(quarantine.rows)
    return blocks, [(number, reason) for _, _, number, reason, _ in quarantine.rows]


def rows_of(blocks: list[ImpressionBlock]) -> list[Row]:
    return [values for block in blocks for values in block.columns.to_pylist()]


def parts_of(blocks: list[ImpressionBlock]) -> list[tuple[str, int, int]]:
    """(file name, line, part) of each row."""
    return [
        (Path(block.file).name, number, part)
        for block in blocks
        for number, part in zip(block.lines.tolist(), block.part.tolist(), strict=True)
    ]


# What is read ---------------------------------------------------------------------------------------------------------


@pytest.mark.realdata
def test_the_real_rows_are_all_read_as_they_stand(cascade_data: Path) -> None:
    folder = cascade_data / "criteo"
    config = CriteoConfig(
        train=str(folder / "train.tsv.gz"),
        valid=str(folder / "dev.tsv.gz"),
        test=str(folder / "test.tsv.gz"),
        split="files",
    )
    blocks, bad = read(config)
    assert bad == []
    part = np.concatenate([block.part for block in blocks])
    assert np.bincount(part).tolist() == [7200, 409, 391]
    rows = rows_of(blocks)
    assert abs(sum(values["label"] for values in rows) / len(rows) - 0.216) < 0.001
    raw = b"".join(gzip.decompress(path.read_bytes()) for path in criteo_files(config))
    assert "".join(map(line, rows)).encode() == raw


def test_what_is_missing_is_null_and_the_types_are_those_of_the_contract(tmp_path: Path) -> None:
    rows = [row(1, I1=None, I2=-2, C3=None, C26="ffffffff"), row(0, I2=None, I13=2_000_000_000)]
    blocks, bad = read(CriteoConfig(train=write(tmp_path / "train.txt", rows)))
    assert bad == []
    assert rows_of(blocks) == rows
    (block,) = blocks
    assert block.columns.column_names == list(NAMES)
    kinds = {name: block.columns.schema.field(name).type for name in NAMES}
    assert kinds["label"] == pa.int8()
    assert {kinds[name] for name in CRITEO_COLUMNS.continuous} == {pa.int64()}
    assert {kinds[name] for name in CRITEO_COLUMNS.categorical} == {pa.dictionary(pa.int32(), pa.string())}
    assert block.part.dtype == np.int8
    assert block.lines.tolist() == [1, 2]


def test_rows_that_cannot_be_used_are_set_aside_with_line_and_reason(tmp_path: Path) -> None:
    good = line(row(1))
    bad = {
        2: (line(row(2)), "label is neither 0 nor 1"),
        3: (line(row(I4="many")), "I4 is not an integer"),
        5: (line(row()).rstrip("\n") + "\tmore\n", "40 columns expected, 41 found"),
        6: (line(row()).partition("\t")[2], "40 columns expected, 39 found"),
        8: (line(row(label=None)), "label is neither 0 nor 1"),
        9: (line(row(C7="caf\\xe9")), "C7 is not UTF-8 text"),
        10: (line(row(I2="0x10")), "I2 is not an integer"),
        11: (line(row(I2="1.5")), "I2 is not an integer"),
        12: (line(row(I2="9" * 19)), "I2 is not an integer"),
        13: (line(row(label="yes", I1="x")), "label is neither 0 nor 1"),
    }
    text = "".join(bad[number][0] if number in bad else good for number in range(1, 15))
    (tmp_path / "train.txt").write_bytes(text.encode().replace(b"\\xe9", b"\xe9"))
    blocks, found = read(CriteoConfig(train=str(tmp_path / "train.txt")))
    assert sorted(found) == [(number, reason) for number, (_, reason) in sorted(bad.items())]
    assert [number for block in blocks for number in block.lines.tolist()] == [1, 4, 7, 14]
    assert rows_of(blocks) == [row(1)] * 4


def test_the_quarantine_keeps_the_raw_row(tmp_path: Path) -> None:
    quarantine = Quarantine()
    path = write(tmp_path / "train.txt", [row(1), row(7, C1=None)])
    list(criteo_blocks(CriteoConfig(train=path), quarantine))
    assert quarantine.rows == [("impressions", path, 2, "label is neither 0 nor 1", line(row(7, C1=None)).rstrip("\n"))]


def test_how_the_text_is_cut_into_blocks_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row(number % 2, I1=number, C1=f"{number % 7:08x}") for number in range(300)]
    rows[41]["I3"] = "bad"
    config = CriteoConfig(train=write(tmp_path / "train.tsv.gz", rows))
    whole, bad = read(config)
    monkeypatch.setattr(text_file, "BLOCK_BYTES", 5000)
    cut, cut_bad = read(config)
    assert len(cut) > 10 > len(whole)
    assert rows_of(cut) == rows_of(whole)
    assert parts_of(cut) == parts_of(whole)
    assert cut_bad == bad == [(42, "I3 is not an integer")]


VALUES = st.one_of(st.none(), st.text("0123456789abcdefé \"',", min_size=1, max_size=9))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.builds(row, st.sampled_from([0, 1]), I2=st.none() | st.integers(-(2**53), 2**53), C1=VALUES, C26=VALUES),
        min_size=1,
        max_size=20,
    )
)
def test_whatever_was_written_is_read(tmp_path: Path, rows: list[Row]) -> None:
    blocks, bad = read(CriteoConfig(train=write(tmp_path / "train.txt", rows)))
    assert (rows_of(blocks), bad) == (rows, [])


# Parquet --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "floats", "dictionary", "binary"])
def test_parquet_gives_the_same_rows_as_text(tmp_path: Path, kind: str) -> None:
    rows = [row(1, I1=None, C2=None, C3="x"), row(0, I1=-3, C2="0000000a", C3=None)]
    table = pa.Table.from_pylist(rows)
    for place, name in enumerate(NAMES):
        new = {
            "plain": table[name],
            "floats": table[name].cast(pa.float64()) if name[0] == "I" else table[name],
            "dictionary": table[name].dictionary_encode() if name[0] == "C" else table[name],
            "binary": table[name].cast(pa.binary()) if name[0] == "C" else table[name],
        }[kind]
        table = table.set_column(place, name, new)
    pq.write_table(table.select(list(reversed(NAMES))), tmp_path / "rows.parquet")
    blocks, bad = read(CriteoConfig(train=str(tmp_path / "rows.parquet")))
    assert (rows_of(blocks), bad) == (rows, [])
    assert blocks[0].columns.column_names == list(NAMES)


def test_hashed_categories_become_decimal_text(tmp_path: Path) -> None:
    rows = [row(1, **{name: place for place, name in enumerate(CRITEO_COLUMNS.categorical)}), row(0, C1="1")]
    pq.write_table(pa.Table.from_pylist(rows[:1]), tmp_path / "rows.parquet")
    (values,) = rows_of(read(CriteoConfig(train=str(tmp_path / "rows.parquet")))[0])
    assert [values[name] for name in CRITEO_COLUMNS.categorical] == [str(place) for place in range(26)]


def test_bad_values_in_parquet_are_set_aside_by_row_number(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([row(1), row(1), row(1), row(1)])
    table = table.set_column(1, "I1", pa.array([1.0, 1.5, float("nan"), float("inf")]))
    pq.write_table(table.set_column(0, "label", pa.array([1, 0, 1, None])), tmp_path / "rows.parquet")
    blocks, bad = read(CriteoConfig(train=str(tmp_path / "rows.parquet")))
    assert sorted(bad) == [(2, "I1 is not an integer"), (4, "label is neither 0 nor 1")]
    assert [values["I1"] for values in rows_of(blocks)] == [1, None]


def test_a_missing_or_impossible_column_is_named(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([row(1)])
    pq.write_table(table.rename_columns(["click", *NAMES[1:]]), tmp_path / "a.parquet")
    with pytest.raises(LogError, match=r"a\.parquet: no column 'label' \(data\.criteo\.train"):
        read(CriteoConfig(train=str(tmp_path / "a.parquet")))
    pq.write_table(table.set_column(14, "C1", pa.array([1.5])), tmp_path / "b.parquet")
    with pytest.raises(LogError, match=r"b\.parquet: column C1 \(data\.criteo\.train\) has type double; .* Int64"):
        read(CriteoConfig(train=str(tmp_path / "b.parquet")))


# Parts ----------------------------------------------------------------------------------------------------------------


def test_named_files_are_the_parts(tmp_path: Path) -> None:
    train = write(tmp_path / "train" / "part_10.tsv", [row(1, I1=3)])
    for number in (2, 1):
        write(tmp_path / "train" / f"part_{number}.tsv", [row(1, I1=number)])
    (tmp_path / "train" / "_SUCCESS").touch()
    valid, test = write(tmp_path / "v.tsv", [row(I1=4)]), write(tmp_path / "t.tsv.gz", [row(I1=5)])
    config = CriteoConfig(train=str(Path(train).parent), valid=valid, test=test, split="files")
    blocks, _ = read(config)
    assert [values["I1"] for values in rows_of(blocks)] == [1, 2, 3, 4, 5]
    assert [part for *_, part in parts_of(blocks)] == [TRAIN, TRAIN, TRAIN, VALID, TEST]
    assert [path.name for path in criteo_files(config)] == [
        *("part_1.tsv", "part_2.tsv", "part_10.tsv", "v.tsv", "t.tsv.gz")
    ]


@pytest.mark.parametrize("extension", ["", ".gz", ".parquet"])
@pytest.mark.parametrize(("rows", "valid"), [(6, 3), (5, 3), (2, 1)])
def test_the_last_day_is_cut_in_halves(tmp_path: Path, extension: str, rows: int, valid: int) -> None:
    for day in (0, 2, 10):  # a gap does no harm, and 10 comes behind 2
        path = tmp_path / f"day_{day}{extension}"
        if extension == ".parquet":
            pq.write_table(pa.Table.from_pylist([row(1, I1=day)] * rows), path)
        else:
            write(path, [row(1, I1=day)] * rows)
    blocks, _ = read(CriteoConfig(train=str(tmp_path), split="days"))
    found = [(int(name.split("_")[1].split(".")[0]), part) for name, _, part in parts_of(blocks)]
    early = [(0, TRAIN)] * rows + [(2, TRAIN)] * rows
    assert found == early + [(10, VALID)] * valid + [(10, TEST)] * (rows - valid)


def test_a_day_may_be_a_folder_and_its_last_line_unfinished(tmp_path: Path) -> None:
    write(tmp_path / "day_0", [row(1)])
    for number, rows in ((0, 2), (1, 1), (2, 4)):
        write(tmp_path / "day_1" / f"part_{number}.tsv", [row(1)] * rows)
    unfinished = tmp_path / "day_1" / "part_2.tsv"
    unfinished.write_bytes(unfinished.read_bytes().rstrip(b"\n"))
    blocks, _ = read(CriteoConfig(train=str(tmp_path), split="days"))
    assert [part for *_, part in parts_of(blocks)] == [TRAIN, VALID, VALID, VALID, VALID, TEST, TEST, TEST]


def test_random_parts_have_their_shares_and_do_not_depend_on_other_files(tmp_path: Path) -> None:
    write(tmp_path / "logs" / "a.tsv", [row(1)] * 6000)
    config = CriteoConfig(train=str(tmp_path / "logs"), valid_share=0.2, test_share=0.1)
    alone = parts_of(read(config)[0])
    assert np.bincount([part for *_, part in alone]) / 6000 == pytest.approx([0.7, 0.2, 0.1], abs=0.02)
    write(tmp_path / "logs" / "0.tsv", [row(1)] * 6000)
    both = parts_of(read(config)[0])
    assert both[6000:] == alone
    assert [part for *_, part in both[:6000]] != [part for *_, part in alone]
    other = CriteoConfig(train=str(tmp_path / "logs" / "a.tsv"), valid_share=0.2, test_share=0.1, seed=2)
    assert parts_of(read(other)[0]) != alone


# Mistakes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"split": "files"}, 'split = "files" needs valid and test'),
        ({"split": "files", "valid": "v"}, "needs valid and test"),
        ({"valid": "v"}, 'split = "random" takes all rows from train, but valid is set'),
        ({"split": "days", "valid": "v", "test": "t"}, "but valid and test is set"),
        ({"valid_share": 0.5}, "valid_share"),
        ({"train": ""}, "train"),
        ({"split": "daily"}, "split"),
        ({"tests": "t"}, "tests"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(values: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)):
        TypeAdapter(CriteoConfig).validate_python({"train": "train.txt"} | values)


def test_missing_files_are_named_with_their_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LogError, match=r"none\.txt: there is no such file \(data\.criteo\.train"):
        criteo_files(CriteoConfig(train=str(tmp_path / "none.txt")))
    with pytest.raises(LogError, match=r"there is no file in the folder \(data\.criteo\.train"):
        criteo_files(CriteoConfig(train=str(tmp_path)))
    train = write(tmp_path / "train.txt", [row()])
    valid = write(tmp_path / "valid.txt", [row()])
    with pytest.raises(LogError, match=r"data\.criteo\.test"):
        criteo_files(CriteoConfig(train=train, valid=valid, test=str(tmp_path / "t"), split="files"))
    monkeypatch.setenv("CASCADE_DATA", str(tmp_path))
    assert criteo_files(CriteoConfig(train="${CASCADE_DATA}/train.txt")) == [tmp_path / "train.txt"]


def test_one_file_for_two_parts_is_refused(tmp_path: Path) -> None:
    train, test = write(tmp_path / "train.txt", [row()]), write(tmp_path / "test.txt", [row()])
    with pytest.raises(LogError, match=r"train\.txt: named by data\.criteo\.train and by data\.criteo\.valid"):
        criteo_files(CriteoConfig(train=train, valid=train, test=test, split="files"))


def test_days_need_a_folder_of_at_least_two_days_and_nothing_else(tmp_path: Path) -> None:
    config = CriteoConfig(train=str(tmp_path / "days"), split="days")
    first = write(tmp_path / "days" / "day_0", [row()])
    with pytest.raises(LogError, match="1 days"):
        criteo_files(config)
    with pytest.raises(LogError, match="not a folder"):
        criteo_files(CriteoConfig(train=first, split="days"))
    same = tmp_path / "days" / "day_0.gz"
    same.touch()
    with pytest.raises(LogError, match=r"day_0\.gz: is the same day as day_0"):
        criteo_files(config)
    same.rename(same.with_name("readme.txt"))
    with pytest.raises(LogError, match=r"readme\.txt: is no day"):
        criteo_files(config)


def test_a_file_without_labels_is_refused_at_once(tmp_path: Path) -> None:
    lines = [line(row()).partition("\t")[2]] * 2000
    (tmp_path / "test.txt").write_text("".join(lines))
    with pytest.raises(LogError, match=r"none of 2000 rows can be read .* 40 columns expected, 39 found"):
        read(CriteoConfig(train=str(tmp_path / "test.txt")))
