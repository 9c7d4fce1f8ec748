"""Hex text: the same as Python's formatting, at any width and with nulls."""

import numpy as np
import pytest

from features.logs.shapes.hex_text import hex_text


@pytest.mark.parametrize(("kind", "width"), [(np.uint32, 8), (np.uint64, 16)])
def test_numbers_are_written_as_python_writes_them(kind: type, width: int) -> None:
    codes = np.random.default_rng(0).integers(0, np.iinfo(kind).max, 1000, dtype=kind)
    codes[:2] = 0, np.iinfo(kind).max
    text = hex_text(codes)
    text.validate(full=True)
    assert text.to_pylist() == [f"{code:0{width}x}" for code in codes.tolist()]


def test_a_row_of_words_becomes_one_text() -> None:
    assert hex_text(np.array([[1, 2**63]], np.uint64)).to_pylist() == ["0000000000000001" + "8000000000000000"]


def test_missing_rows_are_null_and_take_no_bytes() -> None:
    missing = np.array([True, False, True, False, False] * 5)
    text = hex_text(np.arange(25, dtype=np.uint32), missing)
    text.validate(full=True)
    assert text.to_pylist() == [None if gone else f"{code:08x}" for code, gone in enumerate(missing)]
    assert text.buffers()[2].size == 8 * 15


def test_no_rows_and_only_missing_rows_work() -> None:
    assert hex_text(np.zeros(0, np.uint32)).to_pylist() == []
    assert hex_text(np.zeros(3, np.uint32), np.ones(3, bool)).to_pylist() == [None] * 3


def test_too_much_text_for_one_array_is_refused() -> None:
    with pytest.raises(ValueError, match="chunks"):
        hex_text(np.lib.stride_tricks.as_strided(np.zeros(1, np.uint64), (2**27,), (0,)))
