import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from features.ops.interner import Interner, InternerError

TEXT = st.text(st.sampled_from("ab\0\x03\x07ü日"), max_size=20) | st.text(max_size=5)
ROWS = st.lists(TEXT | st.none(), max_size=30)
NUMBERS = st.integers(-(2**63), 2**63 - 1)


def first_appearances(rows: list) -> dict:
    """The oracle: value -> code."""
    return {value: code for code, value in enumerate(dict.fromkeys(row for row in rows if row is not None))}


@settings(deadline=None)
@given(st.lists(ROWS, max_size=4), ROWS)
@example([["abc", "abc\0\0\0\0\x03", "", "\0", "\0\0\0\0\0\0\0\0"]], ["abc\0", "abc"])
def test_codes_follow_the_first_appearance_over_all_calls(batches: list[list], others: list) -> None:
    interner, seen = Interner(), []
    for batch in batches:
        seen += batch
        assert interner.add(pa.array(batch, pa.string())).tolist() == [
            first_appearances(seen).get(v, -1) for v in batch
        ]
    known = first_appearances(seen)
    assert interner.values().to_pylist() == list(known)
    assert interner.find(pa.array(others, pa.string())).tolist() == [known.get(value, -1) for value in others]


@settings(deadline=None)
@given(ROWS, st.integers(0, 5), st.sampled_from(["string", "large", "dictionary", "view", "chunks"]))
def test_every_form_of_text_gets_the_same_codes(rows: list, begin: int, form: str) -> None:
    plain = pa.array(rows, pa.string())
    forms = {
        "string": plain,
        "large": plain.cast(pa.large_string()),
        "dictionary": plain.dictionary_encode(),
        "view": plain.cast(pa.string_view()),
        "chunks": pa.chunked_array([plain[:3], plain[3:]]),
    }
    interner = Interner()
    codes = interner.add(forms[form].slice(begin))
    assert codes.tolist() == [first_appearances(rows[begin:]).get(value, -1) for value in rows[begin:]]
    assert interner.find(forms[form]).tolist() == [first_appearances(rows[begin:]).get(value, -1) for value in rows]


def test_a_dictionary_s_unused_and_null_values_get_no_code() -> None:
    values = pa.DictionaryArray.from_arrays(pa.array([3, None, 1, 3, 0], pa.int8()), ["a", "b", "unused", None])
    interner = Interner()
    assert interner.add(values).tolist() == [-1, -1, 0, -1, 1]
    assert interner.values().to_pylist() == ["b", "a"]


@settings(deadline=None)
@given(st.lists(NUMBERS | st.none(), max_size=30), st.lists(NUMBERS, max_size=5))
def test_whole_numbers_get_codes(rows: list, others: list) -> None:
    interner, known = Interner(pa.int64()), first_appearances(rows)
    assert interner.add(pa.array(rows, pa.int64())).tolist() == [known.get(value, -1) for value in rows]
    assert interner.find(pa.array(others, pa.int64())).tolist() == [known.get(value, -1) for value in others]
    assert interner.values().to_pylist() == list(known)


def test_narrow_numbers_and_booleans_are_whole_numbers() -> None:
    interner = Interner(pa.int64())
    assert interner.add(pa.array([5, 1, 5], pa.uint8())).tolist() == [0, 1, 0]
    assert interner.find(pa.array([True, False])).tolist() == [1, -1]


def test_numbers_with_fractions_know_one_zero_and_no_nan() -> None:
    interner = Interner(pa.float64())
    assert interner.add(pa.array([0.5, -0.0, float("nan"), None, 0.0])).tolist() == [0, 1, -1, -1, 1]
    assert interner.values().to_pylist() == [0.5, 0.0]


@pytest.mark.parametrize("length", [3, 8, 64])
def test_many_values_are_kept_apart(length: int) -> None:
    numbers = np.random.default_rng(length).integers(0, 60_000, 200_000)
    rows = [f"{number:0{length}x}" for number in numbers]
    codes, values = pd.factorize(np.array(rows, dtype=object))
    interner = Interner(dtype=np.int64)
    found = interner.add(pa.array(rows))
    np.testing.assert_array_equal(found, codes)
    assert found.dtype == np.int64 and interner.values().to_pylist() == values.tolist()


def test_threads_find_what_one_finds() -> None:
    values = pa.array([f"user {number}" for number in range(20_000)])
    interner = Interner()
    interner.add(values)
    with ThreadPoolExecutor(4) as threads:
        for codes in threads.map(interner.find, [values] * 16):
            np.testing.assert_array_equal(codes, np.arange(20_000))


def test_it_can_be_pickled_and_goes_on_growing() -> None:
    interner = Interner(dtype=np.int64)
    interner.add(pa.array(["a", "long enough to be compared"]))
    copied = pickle.loads(pickle.dumps(interner))
    assert copied.add(pa.array(["new", "long enough to be compared"])).tolist() == [2, 1]
    assert copied.dtype == np.int64 and len(copied) == 3 and len(interner) == 2


@pytest.mark.parametrize(("kind", "values"), [(pa.string(), [1]), (pa.int64(), ["1"]), (pa.int64(), [0.5])])
def test_values_of_another_type_are_refused(kind: pa.DataType, values: list) -> None:
    with pytest.raises(InternerError, match=f"an Interner of {kind} takes values of that type, got"):
        Interner(kind).find(pa.array(values))


def test_a_table_of_another_type_is_refused() -> None:
    with pytest.raises(InternerError, match="got bool"):
        Interner(pa.bool_())
