"""Texts that share words stand near each other, also those that were never seen; no text is the zero vector."""

import numpy as np
import nvtabular as nvt
import pyarrow as pa
import pytest
from merlin.schema import Tags

from features import executor
from features.cluster import IN_PROCESS, open_cluster
from features.ops.text_vector import TextVector
from features.partitions import TableParts, frame_of

TEXTS = ["red summer dress", "blue summer dress", "red wool sweater", "blue wool sweater", "black jeans", "blue jeans"]


def fitted(texts: list[str | None], dim: int = 3, cluster=IN_PROCESS, rows_per_part: int = 2) -> nvt.Workflow:
    workflow = nvt.Workflow(["text"] >> TextVector(dim))
    return executor.fit(workflow, TableParts(pa.table({"text": pa.array(texts, pa.string())}), rows_per_part), cluster)


def vectors(workflow: nvt.Workflow, texts: list[str | None]) -> np.ndarray:
    frame = workflow.transform(frame_of(pa.table({"text": pa.array(texts, pa.string())})))
    return np.array(pa.array(frame["text"].array).to_pylist(), dtype=np.float32)


def test_texts_that_share_words_are_near_even_if_never_seen() -> None:
    workflow = fitted(TEXTS * 2)
    dress, sweater, jeans, new = vectors(
        workflow, ["red summer dress", "red wool sweater", "black jeans", "summer dress"]
    )
    assert new @ dress > max(new @ sweater, new @ jeans)
    np.testing.assert_allclose(np.linalg.norm([dress, sweater, jeans, new], axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("text", ["", None, "qwertz"])
def test_what_says_nothing_is_the_zero_vector(text: str | None) -> None:
    assert not vectors(fitted(TEXTS * 2), [text]).any()


@pytest.mark.parametrize("texts", [["one", "two", "three"], ["same same"] * 5, ["", None, ""]])
def test_texts_without_structure_still_give_vectors_of_the_width(texts: list[str | None]) -> None:
    assert vectors(fitted(texts, dim=4), texts).shape == (len(texts), 4)


def test_parts_and_threads_change_nothing() -> None:
    with open_cluster("threads:2") as cluster:
        other = vectors(fitted(TEXTS * 2, cluster=cluster, rows_per_part=5), TEXTS)
    np.testing.assert_array_equal(vectors(fitted(TEXTS * 2), TEXTS), other)


def test_the_schema_says_what_the_column_is() -> None:
    column = fitted(TEXTS * 2).output_schema["text"]
    assert Tags.EMBEDDING in column.tags and column.is_list and column.shape.dims[1].max == 3
