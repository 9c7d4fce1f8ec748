"""Whether one vocabulary is another one grown."""

import json

import numpy as np
import pyarrow as pa
import pytest

from features import vocabulary
from features.artifact import ArtifactWriter

FIRST = {"city": pa.array(["a", "b"]), "row": np.arange(3)}


@pytest.fixture
def earlier(tmp_path) -> dict:
    version = vocabulary.write(ArtifactWriter(tmp_path), FIRST, 1)
    document = json.loads((tmp_path / vocabulary.FILE).read_text())
    assert document == version | {"num_values": {"city": 2, "row": 3}}
    return document


@pytest.mark.parametrize(
    ("city", "row", "expected"),
    [
        (["a", "b"], [0, 1, 2], True),
        (["a", "b", "c"], [0, 1, 2, 9], True),
        (["b", "a", "c"], [0, 1, 2], False),
        (["a"], [0, 1, 2], False),
        (["a", "x"], [0, 1, 2], False),
    ],
)
def test_it_has_grown_if_every_earlier_value_keeps_its_place(earlier: dict, city, row, expected: bool):
    assert vocabulary.has_grown_from({"city": pa.array(city), "row": pa.array(row)}, earlier) is expected


def test_another_column_is_another_vocabulary(earlier: dict):
    assert not vocabulary.has_grown_from({"city": pa.array(["a", "b"])}, earlier)
    assert not vocabulary.has_grown_from(
        {name: pa.array(values) for name, values in FIRST.items()} | {"x": pa.array([1])}, earlier
    )
