"""Decoding a column gives what Feast's own class reads, and says so when it is of another kind."""

import numpy as np
import pyarrow as pa
import pytest
from feast.protos.feast.types.Value_pb2 import Int64List, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from features.store.config import StoreError
from features.store.value_arrays import floats, int_lists, ints
from features.store.value_bytes import steps, value_bytes

INT64 = st.integers(-(2**63), 2**63 - 1)


@settings(deadline=None)  # the first call compiles
@given(st.lists(st.none() | INT64 | st.integers(-3, 300)))
def test_integers(values):
    cells = [b"" if value is None else Value(int64_val=value).SerializeToString() for value in values]
    assert ints("n", cells, 7).tolist() == [7 if value is None else value for value in values]


@settings(deadline=None)  # the first call compiles
@given(st.lists(st.none() | st.floats(width=32, allow_nan=False)))
def test_floats(values):
    cells = [b"" if value is None else Value(float_val=value).SerializeToString() for value in values]
    expected = np.array([0 if value is None else value for value in values], np.float32)
    np.testing.assert_array_equal(floats("x", cells).view(np.uint32), expected.view(np.uint32))


@settings(deadline=None)  # the first call compiles
@given(st.lists(st.none() | st.lists(INT64 | st.integers(0, 300), max_size=90)), st.none() | st.integers(0, 50))
def test_lists(values, length):
    cells = [
        b"" if value is None else Value(int64_list_val=Int64List(val=value)).SerializeToString() for value in values
    ]
    found = int_lists("history", cells, -1, length)
    width = max((len(value or []) for value in values), default=0) if length is None else length
    assert found.shape == (len(values), width)
    for row, value in zip(found.tolist(), values, strict=True):
        kept = (value or [])[:width]
        assert row == kept + [-1] * (width - len(kept))


@given(
    st.lists(st.none() | st.lists(INT64, max_size=20) | st.sets(st.integers(0, 100_000), max_size=300).map(sorted)),
    st.integers(0, 3),
    st.sampled_from([pa.list_(pa.int64()), pa.large_list(pa.int64())]),
)
def test_steps_come_back_as_what_they_were_made_of(values, begin, kind):
    values, column = values[begin:], pa.array(values, kind)[begin:]
    made = steps(column)
    assert made.type == kind
    found = int_lists("seen", value_bytes("seen", made).to_pylist(), -1, None, as_steps=True)
    assert found.shape == (len(values), max((len(value or []) for value in values), default=0))
    for row, value in zip(found.tolist(), values, strict=True):
        assert row == (value or []) + [-1] * (len(row) - len(value or []))


def test_many_items_of_a_user_take_a_byte_or_two_each():
    rows = np.sort(np.random.default_rng(0).choice(100_000, 10_000, replace=False))
    (cell,) = value_bytes("seen", steps(pa.array([rows]))).to_pylist()
    assert len(cell) < 1.01 * len(rows)


@pytest.mark.parametrize("read", [lambda cells: ints("age", cells, 0), lambda cells: floats("age", cells)])
@pytest.mark.parametrize("cell", [Value(string_val="x").SerializeToString(), b"\x20", b"\xff" * 12])
def test_another_kind_is_named(read, cell):
    with pytest.raises(StoreError, match="'age' must be"):
        read([b"", cell])


@pytest.mark.parametrize("cut", [1, 3, 5])
def test_a_list_that_is_cut_off_is_named(cut):
    whole = Value(int64_list_val=Int64List(val=[1, 2**40])).SerializeToString()
    with pytest.raises(StoreError, match="'seen' must be a list"):
        int_lists("seen", [whole, whole[:-cut]], -1, None)
