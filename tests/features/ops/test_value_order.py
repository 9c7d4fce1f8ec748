import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from features.ops.value_order import by_value

TEXT = st.text(st.sampled_from("ab\0ü日"), max_size=20) | st.text(max_size=5)


@settings(deadline=None)
@given(st.lists(TEXT, unique=True), st.integers(0, 3))
def test_text_is_ordered_by_its_bytes(values: list[str], begin: int) -> None:
    array = pa.array(values, pa.string()).slice(begin)
    assert array.take(pa.array(by_value(array))).to_pylist() == sorted(values[begin:], key=str.encode)


@settings(deadline=None)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), unique=True))
def test_numbers_are_ordered_by_size(values: list[int]) -> None:
    array = pa.array(values, pa.int64())
    assert array.take(pa.array(by_value(array))).to_pylist() == sorted(values)
