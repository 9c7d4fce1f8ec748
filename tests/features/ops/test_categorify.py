import subprocess
import sys
from collections import Counter
from itertools import chain
from pathlib import Path

import dask
import dask.dataframe as dd
import numpy as np
import nvtabular as nvt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from merlin.dag import ColumnSelector
from nvtabular.ops import Categorify as Stock

from features.ops.arrow_column import ColumnError
from features.ops.categorify import Categorify, VocabularyError
from features.ops.interner import InternerError
from features.schema import FIRST_KNOWN, NULL, UNSEEN

TEXT = st.sampled_from(["a", "b", "c", "", "ü", "日本", "eight by", "more than eight", "more than eighty"])
ROWS = st.lists(TEXT | st.none(), max_size=40)
NUMBERS = st.lists(st.integers(-3, 5) | st.none(), max_size=40)
X = ColumnSelector(["x"])


def by_hand(rows: list, freq_threshold: int = 0, max_size: int = 0, base: tuple = ()) -> list:
    """The oracle: the values that get an id, in the order of the ids."""
    sizes = Counter(row for row in rows if row is not None and row not in base)
    order = sorted(sizes, key=lambda value: (-sizes[value], value.encode() if isinstance(value, str) else value))
    chosen = [*base, *(value for value in order if sizes[value] >= freq_threshold)]
    return chosen[: max(max_size - FIRST_KNOWN, len(base))] if max_size else chosen


def ids_by_hand(rows: list, values: list) -> list[int]:
    places = {value: place + FIRST_KNOWN for place, value in enumerate(values)}
    return [NULL if row is None else places.get(row, UNSEEN) for row in rows]


def frame(rows: list, form: str = "objects") -> pd.DataFrame:
    kind = pa.int64() if any(isinstance(row, int) for row in rows) else pa.string()
    array = pa.array(rows, kind)
    forms = {
        "objects": lambda: pd.Series(rows, dtype=object),
        "arrow": lambda: pd.Series(pd.arrays.ArrowExtensionArray(array)),
        "dictionary": lambda: pd.Series(pd.arrays.ArrowExtensionArray(array.dictionary_encode())),
        "chunks": lambda: pd.Series(
            pd.arrays.ArrowExtensionArray(
                pa.chunked_array([part.dictionary_encode() for part in (array[:5], array[5:])])
            )
        ),
        "numpy": lambda: pd.Series(array.to_numpy(zero_copy_only=False)),
    }
    return pd.DataFrame({"x": forms[form]()})


def partitions(frames: list[pd.DataFrame]) -> dd.DataFrame:
    with dask.config.set({"dataframe.convert-string": False}):
        return dd.from_map(lambda part: part, frames, meta=frames[0].iloc[:0], enforce_metadata=False)


def fitted(operator: Categorify, frames: list[pd.DataFrame], selector: ColumnSelector = X) -> Categorify:
    operator.clear()
    parts = partitions(frames)
    operator.fit_finalize(operator.fit(selector, parts).compute(scheduler="synchronous"))
    return operator


@settings(deadline=None, max_examples=50)
@given(
    st.lists(ROWS, min_size=1, max_size=4),
    ROWS,
    st.sampled_from(["objects", "arrow", "dictionary", "chunks"]),
    st.sampled_from([{}, {"freq_threshold": 2}, {"max_size": 5}, {"max_size": 3}]),
)
def test_ids_go_by_frequency_then_value(parts: list[list], others: list, form: str, options: dict) -> None:
    operator = fitted(Categorify(**options), [frame(rows, form) for rows in parts])
    values = by_hand(list(chain(*parts)), **options)
    assert operator.vocabulary("x").to_pylist() == values
    for rows in [*parts, others]:
        ids = operator.transform(X, frame(rows, form))["x"]
        assert ids.tolist() == ids_by_hand(rows, values) and ids.dtype == np.int64


@settings(deadline=None, max_examples=30)
@given(st.lists(NUMBERS, min_size=1, max_size=4), NUMBERS, st.sampled_from(["objects", "arrow", "numpy"]))
def test_numbers_are_categories_whether_or_not_a_part_has_nulls(parts: list, others: list, form: str) -> None:
    operator = fitted(Categorify(dtype=np.int32), [frame(rows, form) for rows in parts])
    values = by_hand(list(chain(*parts)))
    for rows in [*parts, others]:
        ids = operator.transform(X, frame(rows, form))["x"]
        assert ids.tolist() == ids_by_hand(rows, values) and ids.dtype == np.int32


@pytest.mark.parametrize("options", [{}, {"freq_threshold": 3}, {"max_size": 12}], ids=str)
@pytest.mark.parametrize("numeric", [False, True])
def test_ids_are_those_of_the_stock_operator(tmp_path: Path, options: dict, numeric: bool) -> None:
    draw = np.random.default_rng(0)
    rows = pd.Series(np.minimum(draw.geometric(0.15, 3_000), 30)).astype("Int64" if numeric else str)
    rows = rows.astype(object).where(draw.random(3_000) > 0.1, None)
    table = pd.DataFrame({"x": rows.astype(float) if numeric else rows})
    dataset = nvt.Dataset(partitions([part.reset_index(drop=True) for part in (table[:900], table[900:])]), cpu=True)
    stock = nvt.Workflow(["x"] >> Stock(out_path=str(tmp_path), **options))
    expected = stock.fit_transform(dataset).to_ddf().compute(scheduler="synchronous")["x"]
    ours = nvt.Workflow(["x"] >> Categorify(**options))
    found = ours.fit_transform(dataset).to_ddf().compute(scheduler="synchronous")["x"]
    sizes = rows.value_counts()
    decided = (rows.map(sizes).isin(sizes[~sizes.duplicated(keep=False)]) | rows.isna()).to_numpy()
    assert decided.mean() > 0.5  # the others tie, and the stock operator leaves the order of ties open
    np.testing.assert_array_equal(found[decided], expected[decided])
    assert sorted(Counter(found).values()) == sorted(Counter(expected).values())
    column, theirs = ours.output_schema["x"], stock.output_schema["x"]
    assert (column.dtype, column.tags) == (theirs.dtype, theirs.tags)
    path, _ = column.properties.pop("cat_path"), theirs.properties.pop("cat_path")
    assert column.properties == theirs.properties
    meta = [
        pd.read_parquet(Path(at).with_name("meta.x.parquet")) for at in (path, stock.output_node.op.categories["x"])
    ]
    pd.testing.assert_frame_equal(*meta)


@pytest.mark.parametrize("rows", [["b", "a", "b", None, "z"], [7, 5, 7, 1]], ids=["text", "numbers"])
def test_stock_tools_read_the_files(rows: list) -> None:
    operator = fitted(Categorify(freq_threshold=1), [frame(rows)])
    path = operator.categories["x"]
    labels = pd.read_parquet(path)
    assert labels.index.tolist() == [3, 4, 5] and labels["x"].tolist() == by_hand(rows)
    assert labels["x_size"].tolist() == [2, 1, 1]
    assert Stock(vocabs={"x": path}).transform(X, frame(rows))["x"].tolist() == ids_by_hand(rows, by_hand(rows))


def test_parts_without_rows_and_without_values_change_nothing() -> None:
    parts = [frame([]), frame([None, None]), pd.DataFrame({"x": [np.nan]}), frame(["a", None])]
    operator = fitted(Categorify(), parts)
    assert [operator.transform(X, part)["x"].tolist() for part in parts] == [[], [1, 1], [1], [3, 1]]


def test_a_column_that_is_null_everywhere_has_an_empty_vocabulary() -> None:
    operator = fitted(Categorify(), [frame([None]), frame([])])
    assert operator.vocabulary("x").to_pylist() == []
    assert operator.transform(X, frame([None, "new"]))["x"].tolist() == [NULL, UNSEEN]
    assert operator.get_embedding_sizes(["x"])["x"][0] == 3


def test_partitions_and_schedulers_change_nothing(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    table = pd.DataFrame({name: draw.integers(0, 300, 2_000).astype(str) for name in "ab"})
    files = []
    for scheduler, num_parts in [("synchronous", 1), ("threads", 20), ("processes", 20), ("threads", 3)]:
        operator = Categorify(out_path=tmp_path / f"{scheduler}{num_parts}")
        statistics = operator.fit(ColumnSelector(["a", "b"]), dd.from_pandas(table, npartitions=num_parts))
        operator.fit_finalize(statistics.compute(scheduler=scheduler))
        files.append({name: Path(path).read_bytes() for name, path in operator.categories.items()})
    assert files[0] == files[1] == files[2] == files[3]
    assert operator.vocabulary("b").to_pylist() == by_hand(table["b"].tolist())


@settings(deadline=None, max_examples=30)
@given(st.lists(TEXT, unique=True, max_size=4), ROWS, st.sampled_from([0, 6]))
def test_known_values_keep_their_ids_and_new_ones_come_behind(base: list[str], rows: list, max_size: int) -> None:
    operator = Categorify(vocabulary={"x": np.array(base, dtype=object)}, max_size=max_size)
    for _ in range(2):  # fitting anew begins with the known values
        fitted(operator, [frame(rows)])
        values = by_hand(rows, max_size=max_size, base=tuple(base))
        assert operator.vocabulary("x").to_pylist() == values
        assert operator.transform(X, frame(rows))["x"].tolist() == ids_by_hand(rows, values)
    later = fitted(Categorify(vocabulary={"x": operator.vocabulary("x")}), [frame(["later", *rows])])
    assert later.vocabulary("x").to_pylist()[: len(values)] == values


def test_what_is_known_can_be_all_there_is() -> None:
    operator = Categorify(vocabulary={"x": ["b", None, "a"]}, grow=False)
    assert operator.transform(X, frame(["a", "b", "c", None]))["x"].tolist() == [4, 3, UNSEEN, NULL]
    assert fitted(operator, [frame(["c"])]).vocabulary("x").to_pylist() == ["b", "a"]
    with pytest.raises(VocabularyError, match=r"\['y'\] have none"):
        fitted(operator, [pd.DataFrame({"y": ["a"]})], ColumnSelector(["y"]))


def test_columns_of_a_group_share_a_vocabulary() -> None:
    lists = pd.Series(pd.arrays.ArrowExtensionArray(pa.array([["a", "b"], None, [], ["b", "b", None]])))
    rows = pd.DataFrame({"item": ["c", "c", "a", None], "history": lists})
    selector = ColumnSelector([["item", "history"]])
    operator = fitted(Categorify(dtype=np.int32), [rows.iloc[:1], rows.iloc[1:]], selector)
    assert operator.vocabulary("history").to_pylist() == operator.vocabulary("item").to_pylist() == ["b", "a", "c"]
    encoded = operator.transform(ColumnSelector(["item", "history"]), rows)
    assert encoded["item"].tolist() == [5, 5, 4, NULL]
    assert encoded["history"].dtype == pd.ArrowDtype(pa.list_(pa.int32()))
    assert [list(row) for row in encoded["history"]] == [[4, 3], [], [], [3, 3, NULL]]
    with pytest.raises(ValueError, match="more than one group"):
        fitted(Categorify(), [rows], ColumnSelector(["item", ["item", "history"]]))


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.string()),
        pa.large_list(pa.string()),
        pa.list_(pa.string(), 2),
        pa.list_(pa.dictionary(pa.int32(), pa.string())),
    ],
    ids=str,
)
def test_lists_keep_their_lengths(kind: pa.DataType) -> None:
    lists = pa.array([["z", "z"], ["a", "b"], ["b", None], ["b", "b"]], kind).slice(1)
    column = pd.DataFrame({"x": pd.arrays.ArrowExtensionArray(lists)}, index=[5, 4, 3])
    operator = fitted(Categorify(), [column])
    assert operator.vocabulary("x").to_pylist() == ["b", "a"]
    encoded = operator.transform(X, column)["x"]
    assert [list(row) for row in encoded] == [[4, 3], [3, NULL], [3, 3]] and encoded.index.tolist() == [5, 4, 3]
    assert pa.types.is_fixed_size_list(encoded.dtype.pyarrow_dtype) == pa.types.is_fixed_size_list(kind)


def test_lists_of_objects_become_arrays() -> None:
    rows = pd.DataFrame({"x": pd.Series([np.array(["a", "b"]), None, ["b"], []], dtype=object)})
    encoded = fitted(Categorify(), [rows]).transform(X, rows)["x"]
    assert [row.tolist() for row in encoded] == [[4, 3], [], [3], []]


def test_a_saved_workflow_encodes_alike_in_a_fresh_process(tmp_path: Path) -> None:
    rows = pd.DataFrame({"x": ["b", "a", "b", None], "y": ["c", "b", "b", "b"]})
    dataset = nvt.Dataset(rows, cpu=True)
    workflow = nvt.Workflow([["x", "y"]] >> Categorify(dtype=np.int32)).fit(dataset)
    expected = workflow.transform(rows)
    workflow.save(tmp_path / "workflow")
    moved = (tmp_path / "workflow").rename(tmp_path / "moved")
    pq.write_table(pa.Table.from_pandas(rows), tmp_path / "rows.parquet")
    script = (
        "import dask; dask.config.set({'dataframe.query-planning': False})\n"
        "import nvtabular as nvt, pandas as pd\n"
        f"loaded = nvt.Workflow.load({str(moved)!r})\n"
        f"print(loaded.transform(pd.read_parquet({str(tmp_path / 'rows.parquet')!r})).to_json())\n"
        "print(loaded.output_node.op.vocabulary('x').to_pylist(), loaded.output_node.op.categories)\n"
    )
    printed = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True)
    ids, vocabulary = printed.stdout.splitlines()
    assert ids == expected.to_json()
    assert vocabulary.startswith("['b', 'a', 'c']") and str(moved / "categories" / "unique.x_y.parquet") in vocabulary
    assert (tmp_path / "moved" / "categories" / "unique.x_y.parquet").is_file()


def test_what_cannot_be_encoded_says_why() -> None:
    with pytest.raises(VocabularyError, match="'x' repeats"):
        Categorify(vocabulary={"x": ["a", "a"]})
    with pytest.raises(VocabularyError, match="fit the workflow"):
        Categorify().vocabulary("x")
    with pytest.raises(InternerError, match="column 'x' and its vocabulary"):
        fitted(Categorify(), [frame([1])]).transform(X, frame(["a"]))
    with pytest.raises(ColumnError, match="'x' must hold text, numbers"):
        fitted(Categorify(), [pd.DataFrame({"x": ["a", 1]})])
    with pytest.raises(ColumnError, match="must agree on text or numbers"):
        fitted(Categorify(), [frame(["a"]), frame([1])])


def test_the_callers_frame_stays_as_it_is() -> None:
    rows = pd.DataFrame({"x": ["a"], "other": [1]}, index=[7])
    encoded = fitted(Categorify(), [rows]).transform(X, rows)
    assert rows["x"].tolist() == ["a"] and encoded.columns.tolist() == ["x"] and encoded.index.tolist() == [7]
