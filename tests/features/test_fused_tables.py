"""Fused tables against plain ones with row-wise Adagrad, and both against their formula."""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from merlin.schema import ColumnSchema, Schema, Tags
from safetensors.torch import load_file, save_file

from features.category_tables import FUSED_FROM_ROWS, CategoryTables, PlainTables, TableLayoutError, category_tables
from features.errors import CascadeError
from features.fused_tables import FusedTables
from features.onnx_export import export_onnx
from features.rowwise_adagrad import RowwiseAdagrad

DIM, RATE = 8, 0.1


def category(name: str, num_ids: int, domain: str | None = None, length: int | None = None) -> ColumnSchema:
    properties = {"domain": {"min": 0, "max": num_ids - 1, "name": domain or name}}
    dims = None if length is None else (None, length)
    return ColumnSchema(name, dtype=np.int32, tags=[Tags.CATEGORICAL], properties=properties, dims=dims)


PLAIN_IDS = Schema([category("colour", 5), category("a.b", 40), category("size", 3)])
WITH_LISTS = Schema(
    [category("item", 30), category("history", 30, "item", 4), category("colour", 5), category("tags", 9, None, 2)]
)


def batch_of(schema: Schema, num_rows: int, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {column.name: [num_rows, 4 if column.name == "history" else 2][: 1 + column.is_list] for column in schema}
    most = {column.name: int(column.int_domain.max) + 1 for column in schema}
    return {name: torch.randint(0, most[name], shapes[name], generator=generator).int() for name in shapes}


def filled(tables: CategoryTables) -> CategoryTables:
    generator = torch.Generator().manual_seed(7)
    for weight_RD in tables.weights().values():
        weight_RD.data.normal_(generator=generator)
    return tables


class Trained:
    """A loss with a penalty on the vectors, as click models have, descended step by step."""

    def __init__(self, tables: CategoryTables) -> None:
        self.tables = tables
        sparse = tables.sparse_parameters()
        self.optimizer = RowwiseAdagrad(sparse, RATE) if sparse else None

    def step(self, batch: dict[str, torch.Tensor], seed: int) -> torch.Tensor:
        target = torch.randn([len(batch["colour"]), 1, DIM], generator=torch.Generator().manual_seed(seed))
        if self.optimizer:
            self.optimizer.zero_grad()
        self.tables.set_learning_rate(RATE)
        vector_NCD = self.tables(batch)
        ((vector_NCD - target).square().sum() + 0.3 * vector_NCD.square().sum()).backward()
        if self.optimizer:
            self.optimizer.step()
        return vector_NCD.detach()


@pytest.mark.parametrize("schema", [PLAIN_IDS, WITH_LISTS])
def test_fused_and_plain_tables_are_equal_after_many_steps(schema: Schema):
    fused, plain = (Trained(filled(category_tables(schema, DIM, kind))) for kind in ("fused", "plain"))
    assert isinstance(fused.tables, FusedTables) and isinstance(plain.tables, PlainTables)
    before = {domain: weight.detach().clone() for domain, weight in fused.tables.weights().items()}
    for step in range(8):
        batch = batch_of(schema, 16, step)
        torch.testing.assert_close(fused.step(batch, step), plain.step(batch, step), rtol=1e-5, atol=1e-5)
    for domain, weight in fused.tables.weights().items():
        torch.testing.assert_close(weight, plain.tables.weights()[domain].detach(), rtol=1e-5, atol=1e-5)
        assert (weight - before[domain]).abs().max() > RATE


def test_a_fused_step_is_the_formula_with_epsilon_beside_the_root():
    """A gradient as small as epsilon: a step of half the rate; with epsilon under the root it would be 1e-5 of it."""
    tables = category_tables(Schema([category("colour", 3), category("size", 2)]), 4, "fused")
    tables.set_learning_rate(0.5)
    gradient = 1e-10
    (tables({"colour": torch.tensor([1]), "size": torch.tensor([0])}) * gradient).sum().backward()
    assert tables.weights()["colour"][1].numpy() == pytest.approx(np.full(4, -0.5 * gradient / (gradient + 1e-10)))
    assert not tables.weights()["colour"][[0, 2]].any()


def test_equal_ids_of_a_batch_are_summed_before_the_step():
    tables = category_tables(Schema([category("colour", 3), category("size", 2)]), 4, "fused")
    tables.set_learning_rate(0.5)
    (tables({"colour": torch.tensor([1, 1]), "size": torch.tensor([0, 1])}) * 3.0).sum().backward()
    assert tables.optimizer_state()["colour"].tolist() == pytest.approx([0, 36, 0])
    assert tables.optimizer_state()["size"].tolist() == pytest.approx([9, 9])
    assert tables.weights()["colour"][1].numpy() == pytest.approx(np.full(4, -0.5))


@pytest.mark.parametrize("kind", ["fused", "plain"])
def test_a_list_becomes_the_mean_of_its_elements_without_the_padding(kind):
    tables = filled(category_tables(WITH_LISTS, DIM, kind))
    weight = tables.weights()["item"].detach()
    lists = torch.tensor([[3, 5, 0, 0], [7, 7, 7, 1], [0, 0, 0, 0]])
    batch = batch_of(WITH_LISTS, 3, 0) | {"history": lists, "item": torch.tensor([0, 4, 0])}
    vector_NCD = tables(batch).detach()
    expected = torch.stack([(weight[3] + weight[5]) / 2, (3 * weight[7] + weight[1]) / 4, torch.zeros(DIM)])
    torch.testing.assert_close(vector_NCD[:, 1], expected)
    torch.testing.assert_close(vector_NCD[:, 0], weight[[0, 4, 0]])  # id 0 of a plain feature is no padding


@pytest.mark.parametrize("kinds", [("fused", "plain"), ("plain", "fused")])
def test_weights_saved_by_one_kind_load_into_the_other(kinds, tmp_path: Path):
    one, other = (category_tables(WITH_LISTS, DIM, kind) for kind in kinds)
    save_file(filled(one).state_dict(), tmp_path / "model.safetensors")
    saved = load_file(tmp_path / "model.safetensors")
    assert sorted(saved) == ["colour.weight", "item.weight", "tags.weight"]
    other.load_state_dict(saved)
    batch = batch_of(WITH_LISTS, 16, 0)
    torch.testing.assert_close(other(batch), one(batch))


@pytest.mark.parametrize("kind", ["fused", "plain"])
def test_weights_that_do_not_fit_are_refused(kind):
    tables = torch.nn.ModuleDict({"tables": category_tables(PLAIN_IDS, DIM, kind)})
    state = tables.state_dict()
    with pytest.raises(RuntimeError, match=r"Missing key.*tables\.colour\.weight"):
        tables.load_state_dict({name: value for name, value in state.items() if "colour" not in name})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*tables\.shape\.weight"):
        tables.load_state_dict(state | {"tables.shape.weight": torch.zeros(1, DIM)})
    with pytest.raises(RuntimeError, match=r"table 'colour' is \[5, 8\], but was saved as \[6, 8\]"):
        tables.load_state_dict(state | {"tables.colour.weight": torch.zeros(6, DIM)})


def test_a_training_goes_on_from_saved_weights_and_sums():
    whole, first = (Trained(filled(category_tables(PLAIN_IDS, DIM, "fused"))) for _ in range(2))
    batches = [batch_of(PLAIN_IDS, 16, step) for step in range(4)]
    for step, batch in enumerate(batches):
        whole.step(batch, step)
    for step, batch in enumerate(batches[:2]):
        first.step(batch, step)
    second = Trained(category_tables(PLAIN_IDS, DIM, "fused"))
    second.tables.load_state_dict(first.tables.state_dict())
    second.tables.load_optimizer_state({name: sums.clone() for name, sums in first.tables.optimizer_state().items()})
    for step, batch in enumerate(batches[2:], start=2):
        second.step(batch, step)
    for domain, weight in whole.tables.weights().items():
        assert torch.equal(second.tables.weights()[domain], weight)


def test_no_optimizer_gets_hold_of_fused_tables():
    tables = category_tables(PLAIN_IDS, DIM, "fused")
    assert not list(tables.parameters()) and not tables.sparse_parameters()


def test_the_forward_pass_notes_the_learning_rate():
    """fbgemm's way: what is set between the two passes counts from the next step on."""
    tables = category_tables(PLAIN_IDS, DIM, "fused")
    tables.set_learning_rate(0.5)
    vector_NCD = tables(batch_of(PLAIN_IDS, 4, 0))
    tables.set_learning_rate(0.1)
    vector_NCD.sum().backward()
    largest = max(float(weight.abs().max()) for weight in tables.weights().values())
    assert largest == pytest.approx(0.5)


def test_without_a_learning_rate_a_backward_pass_moves_nothing():
    tables = filled(category_tables(PLAIN_IDS, DIM, "fused"))
    before = {domain: weight.clone() for domain, weight in tables.weights().items()}
    tables(batch_of(PLAIN_IDS, 4, 0)).sum().backward()
    assert all(torch.equal(weight, before[domain]) for domain, weight in tables.weights().items())


@pytest.mark.parametrize("kind", ["fused", "plain"])
def test_the_form_for_onnx_computes_the_same_with_any_number_of_rows(kind, tmp_path: Path):
    tables = filled(category_tables(WITH_LISTS, DIM, kind)).eval()
    axes = {name: {0: "rows"} for name in [*tables.features, "vectors"]}
    export_onnx(tables, tables, batch_of(WITH_LISTS, 3, 0), axes, "vectors", tmp_path / "tables.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "tables.onnx"))
    for num_rows in (1, 64):
        batch = batch_of(WITH_LISTS, num_rows, num_rows)
        (found,) = session.run(None, {name: ids.numpy() for name, ids in batch.items()})
        np.testing.assert_allclose(found, tables(batch).detach().numpy(), atol=1e-6)


def test_an_id_outside_of_its_table_is_an_error():
    tables = category_tables(PLAIN_IDS, DIM, "fused")
    with pytest.raises(RuntimeError):
        tables(batch_of(PLAIN_IDS, 4, 0) | {"colour": torch.tensor([1, 2, 5, 0])})


def test_a_width_that_fbgemm_has_not_is_refused_by_name():
    with pytest.raises(
        TableLayoutError, match=r"multiple of 4, got embedding_dim 6; change ranking\.network"
    ) as caught:
        category_tables(PLAIN_IDS, 6, "fused")
    assert isinstance(caught.value, CascadeError)


def test_auto_fuses_large_tables_where_it_can(monkeypatch: pytest.MonkeyPatch):
    large = Schema([category("user", FUSED_FROM_ROWS), category("colour", 5)])
    assert isinstance(category_tables(large, 4), FusedTables)
    assert isinstance(category_tables(PLAIN_IDS, 4), PlainTables)
    assert isinstance(category_tables(large, 6), PlainTables)
    monkeypatch.setitem(sys.modules, "fbgemm_gpu", None)
    assert isinstance(category_tables(large, 4), PlainTables)
    with pytest.raises(TableLayoutError, match=r"fbgemm-gpu-cpu .* cannot be loaded .*tables = \"plain\""):
        category_tables(large, 4, "fused")


def test_a_category_without_a_domain_is_refused_by_name():
    schema = Schema([ColumnSchema("colour", dtype=np.int64, tags=[Tags.CATEGORICAL])])
    with pytest.raises(ValueError, match="'colour' has no integer domain"):
        category_tables(schema, DIM)
