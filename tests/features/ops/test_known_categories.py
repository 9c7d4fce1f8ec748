from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from merlin.dag import ColumnSelector
from nvtabular.ops import Categorify

from features.ops.known_categories import KnownCategories

TEXT = st.sampled_from(["a", "b", "c", "", "ü", "日本", "a b", "A", "1"])
VOCABULARY = st.lists(TEXT, min_size=1, unique=True)


def encoded(values: list, vocabulary: list, storage: Path, operator: type = KnownCategories) -> list:
    frame = pd.DataFrame({"x": pd.Series(values, dtype=None if operator is Categorify else object)})
    if operator is KnownCategories:
        made = KnownCategories({"x": np.array(vocabulary, dtype=object)}, storage)
    else:
        made = operator(vocabs={"x": pd.Series(vocabulary)}, out_path=str(storage))
    found = made.transform(ColumnSelector(["x"]), frame)["x"]
    return [value.tolist() if isinstance(value, np.ndarray) else value for value in found]


@given(st.lists(TEXT | st.none(), min_size=1).filter(lambda values: values != [None] * len(values)), VOCABULARY)
def test_plain_values_get_the_ids_of_the_stock_operator(values: list, vocabulary: list[str]) -> None:
    with TemporaryDirectory() as ours, TemporaryDirectory() as stock:
        assert encoded(values, vocabulary, Path(ours)) == encoded(values, vocabulary, Path(stock), Categorify)


@given(st.lists(st.lists(TEXT), min_size=1).filter(any), VOCABULARY)
def test_lists_get_the_ids_of_the_stock_operator(rows: list[list[str]], vocabulary: list[str]) -> None:
    with TemporaryDirectory() as ours, TemporaryDirectory() as stock:
        assert encoded(rows, vocabulary, Path(ours)) == encoded(rows, vocabulary, Path(stock), Categorify)


def test_numbers_are_encoded_by_their_place(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": [7, 9, 8]}, index=[2, 1, 0])
    found = KnownCategories({"x": np.array([9, 7])}, tmp_path).transform(ColumnSelector(["x"]), frame)["x"]
    assert found.tolist() == [4, 3, 2] and found.dtype == np.int64
    assert found.index.tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    ("values", "ids"),
    [
        ([None, None], [1, 1]),
        ([], []),
        ([[], []], [[], []]),
        ([None, ["a"], []], [[], [3], []]),
        ([["a", "z"], ["a", "b"]], [[3, 2], [3, 4]]),
    ],
)
def test_nulls_and_empty_lists_are_encoded(tmp_path: Path, values: list, ids: list) -> None:
    assert encoded(values, ["a", "b"], tmp_path) == ids


def test_with_an_empty_vocabulary_everything_is_unseen(tmp_path: Path) -> None:
    assert encoded(["a", None], [], tmp_path / "plain") == [2, 1]
    assert encoded([["a"], []], [], tmp_path / "list") == [[2], []]
