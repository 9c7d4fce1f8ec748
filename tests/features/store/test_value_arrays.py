"""Decoding a column gives what Feast's own class reads, and says so when it is of another kind."""

import numpy as np
import pytest
from feast.protos.feast.types.Value_pb2 import Int64List, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from features.store.config import StoreError
from features.store.value_arrays import floats, int_lists, ints

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
