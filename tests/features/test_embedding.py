"""Pooled embedding tables against means taken by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from merlin.schema import ColumnSchema, Schema, Tags

from features.embedding import embedding_tables
from features.onnx_export import OnnxMismatchError, export_onnx

DIM = 4
LISTS = torch.tensor([[3, 5, 0, 0], [7, 7, 7, 1], [0, 0, 0, 0]])


def category(name: str, domain: str, highest: int, length: int | None = None) -> ColumnSchema:
    properties = {"domain": {"min": 0, "max": highest, "name": domain}}
    dims = None if length is None else (None, length)
    return ColumnSchema(name, dtype=np.int64, tags=[Tags.CATEGORICAL], properties=properties, dims=dims)


@pytest.fixture
def tables():
    torch.manual_seed(0)
    schema = Schema(
        [category("item_id", "item", 9), category("history", "item", 9, 4), category("colour", "colour", 3)]
    )
    return embedding_tables(schema, DIM)


def test_a_list_becomes_the_mean_of_its_elements_without_the_padding(tables):
    weight = tables["item"][0].table.weight
    pooled = tables({"history": LISTS})["history"]
    assert torch.allclose(pooled[0], (weight[3] + weight[5]) / 2)
    assert torch.allclose(pooled[1], (3 * weight[7] + weight[1]) / 4)


def test_an_empty_list_becomes_zero(tables):
    assert torch.equal(tables({"history": LISTS})["history"][2], torch.zeros(DIM))


def test_the_form_for_onnx_computes_the_same_with_any_number_of_rows(tables, tmp_path: Path):
    import onnxruntime

    path = tmp_path / "pooled.onnx"
    axes = {"history": {0: "rows"}, "pooled": {0: "rows"}}
    export_onnx(tables, lambda batch: tables(batch)["history"], {"history": LISTS}, axes, "pooled", path)
    session = onnxruntime.InferenceSession(str(path))
    for rows in (1, 64):
        lists = torch.randint(0, 10, (rows, 4), generator=torch.Generator().manual_seed(rows))
        expected = tables({"history": lists})["history"].detach().numpy()
        np.testing.assert_allclose(session.run(None, {"history": lists.numpy()})[0], expected, atol=1e-6)


def test_features_of_one_domain_share_one_table(tables):
    assert sorted(tables.branches) == ["colour", "item"]
    vectors = tables({"item_id": torch.tensor([5]), "history": torch.tensor([[5, 0, 0, 0]])})
    assert torch.equal(vectors["item_id"], vectors["history"])


def test_a_category_without_a_domain_is_refused_by_name():
    schema = Schema([ColumnSchema("colour", dtype=np.int64, tags=[Tags.CATEGORICAL])])
    with pytest.raises(ValueError, match="'colour' has no integer domain"):
        embedding_tables(schema, DIM)


def test_an_export_that_computes_something_else_is_refused(tmp_path: Path):
    class Changing(torch.nn.Module):
        calls = 0

        def forward(self, batch):
            self.calls += 1
            return batch["x"] + float(self.calls)

    module = Changing()
    with pytest.raises(OnnxMismatchError, match=r"changing\.onnx: onnxruntime differs from torch"):
        export_onnx(module, module.forward, {"x": torch.zeros(2)}, {}, "y", tmp_path / "changing.onnx")
