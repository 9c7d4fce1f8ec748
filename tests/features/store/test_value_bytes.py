"""The bytes written by hand are those of Feast's protobuf classes."""

import numpy as np
import pyarrow as pa
import pytest
from feast.protos.feast.types.Value_pb2 import Int64List, Value
from hypothesis import example, given
from hypothesis import strategies as st

from features.store.config import StoreError
from features.store.value_bytes import concatenated, fixed_width, value_bytes, value_texts, varint

INT64 = np.iinfo(np.int64)
int64s = st.integers(INT64.min, INT64.max)
edges = [0, 1, -1, 127, 128, 2**14 - 1, 2**14, 2**28 - 1, 2**28, 2**63 - 1, -(2**63)]
int64_lists = st.lists(st.none() | st.lists(int64s, max_size=200), max_size=30)


def list_value(values):
    return b"" if values is None else Value(int64_list_val=Int64List(val=values)).SerializeToString()


@given(st.lists(st.none() | int64s))
@example(edges)
@example([1, 2, None])
def test_integers(values):
    expected = [b"" if value is None else Value(int64_val=value).SerializeToString() for value in values]
    assert value_bytes("x", pa.array(values, pa.int64())).to_pylist() == expected


@given(st.lists(st.none() | st.floats(width=32)))
def test_floats(values):
    expected = [b"" if one is None or one != one else Value(float_val=one).SerializeToString() for one in values]
    assert value_bytes("x", pa.array(values, pa.float32())).to_pylist() == expected


@given(int64_lists)
@example([[], None, edges, [0] * 50, [3] * 128])
def test_lists(values):
    expected = [list_value(one) for one in values]
    assert value_bytes("x", pa.array(values, pa.large_list(pa.int64()))).to_pylist() == expected
    assert value_bytes("x", pa.array(values, pa.list_(pa.int64()))).to_pylist() == expected


@given(st.lists(st.none() | st.lists(int64s, min_size=3, max_size=3), max_size=30))
def test_lists_of_fixed_length(values):
    expected = [list_value(one) for one in values]
    assert value_bytes("x", pa.array(values, pa.list_(pa.int64(), 3))).to_pylist() == expected


@given(int64_lists, st.data())
def test_a_slice_of_a_column(values, data):
    begin = data.draw(st.integers(0, len(values)))
    column = pa.array(values, pa.large_list(pa.int64())).slice(begin)
    assert value_bytes("x", column).to_pylist() == [list_value(one) for one in values[begin:]]


@given(st.integers(0, 2**64 - 1))
def test_varint_is_protobufs(number):
    assert b"\x20" + varint(number) == Value(int64_val=np.uint64(number).view(np.int64)).SerializeToString()


@given(st.lists(st.none() | st.floats(width=32)), st.lists(st.none() | int64s))
def test_texts_are_pythons(floats, ints):
    expected = [None if one is None or one != one else str(one) for one in floats]
    assert value_texts(pa.array(floats, pa.float32())).to_pylist() == expected
    expected = [None if one is None else str(one) for one in ints]
    assert value_texts(pa.array(ints, pa.int64())).to_pylist() == expected


def test_other_widths_become_those_that_feast_declares():
    assert value_bytes("x", pa.array([-2, 3], pa.int8())).to_pylist() == [
        Value(int64_val=value).SerializeToString() for value in (-2, 3)
    ]
    assert value_bytes("x", pa.array([0.1, 1e300])).to_pylist() == [
        Value(float_val=value).SerializeToString() for value in (0.1, float("inf"))
    ]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([2**63], pa.uint64()),
        pa.array([[1, None]], pa.list_(pa.int64())),
        pa.array([[1.5]], pa.list_(pa.float32())),
        pa.array(["text"]),
        pa.array([True]),
    ],
    ids=["beyond int64", "null in a list", "list of fractions", "text", "bool"],
)
def test_what_the_store_cannot_hold_is_refused_with_the_column(column):
    with pytest.raises(StoreError, match="column 'age'"):
        value_bytes("age", column)


def test_parts_are_joined_row_by_row():
    numbers = fixed_width(np.arange(6, dtype=np.uint8).reshape(3, 2))
    words = pa.array([b"a", b"", b"cc"], pa.large_binary())
    assert concatenated(b"<", numbers, words, b">").to_pylist() == [b"<\0\1a>", b"<\2\3>", b"<\4\5cc>"]
