"""Shape `criteo`: rows that are the same however they are cut, look like the real ones, and have a label to learn."""

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from features.logs.criteo import CRITEO_COLUMNS, CriteoConfig, criteo_blocks
from features.logs.quarantine import Quarantine
from features.logs.shapes.criteo import CHUNK_ROWS, CLICK_SHARE, SCHEMA, CriteoWorld, ranks, write_criteo
from features.logs.shapes.criteo_columns import CATEGORIES, INTEGERS
from features.split import TEST, TRAIN, VALID

NUM_ROWS = CHUNK_ROWS + 20_000


@pytest.fixture(scope="module")
def world() -> CriteoWorld:
    return CriteoWorld(1)


@pytest.fixture(scope="module")
def rows(world: CriteoWorld) -> pa.Table:
    return world.rows(0, NUM_ROWS).combine_chunks()


def auc(label: np.ndarray, score: np.ndarray) -> float:
    """Share of pairs of a click and no click that the score orders rightly; ties in order of the rows."""
    rank = np.empty(len(score))
    rank[np.argsort(score, kind="stable")] = np.arange(len(score))
    clicks = int(label.sum())
    return (rank[label == 1].sum() - clicks * (clicks - 1) / 2) / clicks / (len(label) - clicks)


def read(folder: Path, **config: str) -> tuple[pa.Table, np.ndarray]:
    """All rows as plain columns, and their parts; none may be in quarantine."""
    quarantine = Quarantine()
    blocks = list(criteo_blocks(CriteoConfig(train=str(folder), **config), quarantine))
    assert quarantine.rows == []
    plain = [pa.table([column.cast(kind) for column, kind in zip(b.columns.columns, SCHEMA.types, strict=True)], SCHEMA)
             for b in blocks]  # fmt: skip
    return pa.concat_tables(plain).combine_chunks(), np.concatenate([block.part for block in blocks])


def test_a_row_is_the_same_whatever_rows_are_asked_for_with_it(rows: pa.Table) -> None:
    for begin, end in ((0, 0), (5, 6), (CHUNK_ROWS - 3, CHUNK_ROWS + 2), (CHUNK_ROWS, NUM_ROWS), (17, NUM_ROWS)):
        assert CriteoWorld(1).rows(begin, end).combine_chunks().equals(rows.slice(begin, end - begin).combine_chunks())


def test_another_seed_gives_other_rows(rows: pa.Table) -> None:
    assert not CriteoWorld(2).rows(0, 1000).combine_chunks().equals(rows.slice(0, 1000).combine_chunks())


def test_the_rows_are_valid_and_have_the_columns_of_the_adapter(rows: pa.Table) -> None:
    rows.validate(full=True)
    assert tuple(rows.column_names) == CRITEO_COLUMNS.names
    words = re.compile("[0-9a-f]{8}")
    for name in CRITEO_COLUMNS.categorical:
        assert all(words.fullmatch(word) for word in rows[name].slice(0, 2000).to_pylist() if word is not None)


@pytest.mark.realdata
def test_gaps_tails_and_numbers_of_values_are_near_those_of_the_real_rows(rows: pa.Table, cascade_data: Path) -> None:
    """In 7200 rows each: the share that is missing, the most frequent category, the median, and the distinct values."""
    blocks = criteo_blocks(CriteoConfig(train=str(cascade_data / "criteo" / "train.tsv.gz")), Quarantine())
    real = pa.concat_tables([block.columns for block in blocks]).unify_dictionaries()
    made = rows.slice(0, real.num_rows)
    for name in CRITEO_COLUMNS.names[1:]:
        ours, theirs = made[name].drop_null(), real[name].drop_null()
        assert abs(len(ours) - len(theirs)) / real.num_rows < 0.06, name
        if name[0] == "C":
            top = [max(pair["counts"] for pair in column.value_counts().to_pylist()) for column in (ours, theirs)]
            assert top[0] / len(ours) == pytest.approx(top[1] / len(theirs), abs=0.12), name
            assert len(ours.unique()) == pytest.approx(len(theirs.unique()), rel=0.25, abs=35), name
        else:
            median = [np.median(column.to_numpy()) for column in (ours, theirs)]
            assert np.log1p(median[0]) == pytest.approx(np.log1p(median[1]), abs=0.5), name


def test_the_second_integer_is_negative_at_times_and_the_others_are_not(rows: pa.Table) -> None:
    lowest = {name: np.nanmin(rows[name].to_numpy()) for name in CRITEO_COLUMNS.continuous}
    assert lowest.pop("I2") == -3
    assert set(lowest.values()) == {0}


def test_columns_of_one_gap_are_missing_together(rows: pa.Table) -> None:
    null = {name: rows[name].is_null().to_numpy() for name in rows.column_names}
    for column in (INTEGERS, CATEGORIES):
        letter = "I" if column is INTEGERS else "C"
        for gap in {c.gap for c in column if c.missing}:
            names = [f"{letter}{place}" for place, c in enumerate(column, 1) if c.gap == gap and c.missing]
            order = sorted(names, key=lambda name: null[name].sum())
            assert all((null[more] | ~null[less]).all() for less, more in pairwise(order))


def test_ranks_follow_the_power_law_they_are_drawn_from() -> None:
    """Against the integral of the density over each rank, for the column with the most and one with few values."""
    draw = (np.arange(1_000_000) + 0.5) / 1_000_000
    for column in (CATEGORIES[2], CATEGORIES[13]):
        place = np.arange(11) + column.shift
        total = (column.num_values + column.shift) ** (1 - column.exponent) - place[0] ** (1 - column.exponent)
        expected = np.diff(place ** (1 - column.exponent)) / total
        rank = ranks(column, draw)
        assert np.bincount(rank)[:10] / len(draw) == pytest.approx(expected, abs=2e-6)
        assert rank.max() < column.num_values


def test_the_share_of_clicks_and_the_best_possible_auc_are_those_of_the_task(
    world: CriteoWorld, rows: pa.Table
) -> None:
    label, odds = rows["label"].to_numpy(), world.log_odds(0, NUM_ROWS)
    assert label.mean() == pytest.approx(CLICK_SHARE, abs=0.01)
    assert (1 / (1 + np.exp(-odds))).mean() == pytest.approx(label.mean(), abs=0.005)  # calibrated
    assert 0.79 < auc(label, odds) < 0.86


@pytest.mark.parametrize("seed", [3, 4])
def test_the_label_can_be_learned_from_the_columns(seed: int) -> None:
    """Naive Bayes learned on the first 100,000 rows orders the next 10,000, not as well as the oracle."""
    num = 100_000
    table = CriteoWorld(seed).rows(0, num + 10_000)
    label, score = table["label"].to_numpy(), np.zeros(num + 10_000)
    for name in table.column_names[1:]:
        column = table[name].combine_chunks()
        if name in CRITEO_COLUMNS.continuous:
            column = pc.round(pc.log1p(pc.max_element_wise(column, 0, skip_nulls=False)))
        code = column.dictionary_encode().indices.fill_null(-1).to_numpy() + 1
        clicks = np.bincount(code[:num], label[:num], code.max() + 1)
        shown = np.bincount(code[:num], minlength=code.max() + 1)
        share = (clicks + 20 * CLICK_SHARE) / (shown + 20)
        score += np.log(share / (1 - share))[code]
    best = auc(label[num:], CriteoWorld(seed).log_odds(num, num + 10_000))
    assert 0.68 < auc(label[num:], score[num:]) < best - 0.02


@pytest.mark.parametrize("form", ["tsv", "tsv.gz", "parquet"])
def test_the_adapter_reads_each_form_without_quarantine(tmp_path: Path, rows: pa.Table, form: str) -> None:
    progress = list(write_criteo(tmp_path, 10_000, form, 1))
    assert progress[0] == (f"day_0.{form}", 416)
    assert sum(num for _, num in progress) == 10_000
    assert len(progress) == 24
    table, part = read(tmp_path, split="days")
    assert table.equals(rows.slice(0, 10_000).combine_chunks())
    assert np.bincount(part, minlength=3)[[TRAIN, VALID, TEST]].tolist() == [9583, 209, 208]
    assert read(tmp_path, split="random")[0].num_rows == 10_000


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for form in ("tsv", "tsv.gz", "parquet"):
        for folder in ("a", "b"):
            (tmp_path / form / folder).mkdir(parents=True)
            list(write_criteo(tmp_path / form / folder, 500, form, 5))
        for path in (tmp_path / form / "a").iterdir():
            assert path.read_bytes() == (tmp_path / form / "b" / path.name).read_bytes()


def test_fewer_rows_than_days_make_fewer_files(tmp_path: Path) -> None:
    assert [num for _, num in write_criteo(tmp_path, 3, "parquet", 1)] == [1, 1, 1]
    assert pq.read_schema(tmp_path / "day_0.parquet").names == list(CRITEO_COLUMNS.names)


@pytest.mark.realdata
def test_text_has_the_form_of_the_real_file(tmp_path: Path, rows: pa.Table, cascade_data: Path) -> None:
    form = re.compile(r"[01](\t(-?\d+)?){13}(\t([0-9a-f]{8})?){26}")
    list(write_criteo(tmp_path, 50, "tsv", 1))
    made = (tmp_path / "day_0.tsv").read_text()
    with pa.input_stream(str(cascade_data / "criteo" / "train.tsv.gz"), compression="gzip") as stream:
        real = stream.read().decode()
    for text in (made, real):
        assert text.endswith("\n")
        assert all(form.fullmatch(line) for line in text[:-1].split("\n"))
