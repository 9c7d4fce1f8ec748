"""The kinds of query encoder against what they stand for, written out; and their export."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from merlin.models.torch import EmbeddingTables
from merlin.schema import ColumnSchema, Schema, Tags
from torch import nn

from features.as_of import HISTORY, HISTORY_GAP
from features.batches import Batch
from features.embedding import PooledEmbeddingTable, embedding_tables, table_of
from features.history_gaps import NUM_GAPS
from features.onnx_export import export_onnx
from features.schema import FIRST_KNOWN, PADDING
from retrieval.history_attention import tensor_attention
from retrieval.query_encoder import NUM_HEADS, AttentiveHistory, QueryEncoder, query_encoder

NUM_ROWS, LENGTH, DIM = 40, 7, 8
KINDS = ("pooled", "attention")


@pytest.fixture
def tables() -> EmbeddingTables:
    torch.manual_seed(0)
    domain = {"domain": {"min": 0, "max": NUM_ROWS - 1, "name": "item"}}
    history = ColumnSchema(HISTORY, dtype=np.int64, tags=[Tags.CATEGORICAL], properties=domain, dims=(None, LENGTH))
    return embedding_tables(Schema([history]), DIM)


@pytest.fixture
def table(tables: EmbeddingTables) -> PooledEmbeddingTable:
    return table_of(tables, HISTORY)


def weight_of(table: PooledEmbeddingTable) -> nn.Parameter:
    assert isinstance(table.table, nn.Embedding)
    return table.table.weight


def made(kind: str, scale: float = 5.0) -> QueryEncoder:
    """An encoder whose weights are far from those of an untrained one."""
    torch.manual_seed(1)
    encoder = query_encoder(kind, DIM, LENGTH, NUM_GAPS)
    with torch.no_grad():
        for weight in encoder.parameters():
            weight += torch.randn(weight.shape) * scale * DIM**-0.5
    return encoder


def histories(num_users: int, seed: int = 0) -> Batch:
    """Of every length from 0 to LENGTH."""
    random = torch.Generator().manual_seed(seed)
    row_BN = torch.randint(1, NUM_ROWS, (num_users, LENGTH), generator=random)
    gap_BN = torch.randint(1, NUM_GAPS, (num_users, LENGTH), generator=random)
    is_real_BN = torch.arange(LENGTH) < (torch.arange(num_users) % (LENGTH + 1)).unsqueeze(1)
    return {HISTORY: torch.where(is_real_BN, row_BN, PADDING), HISTORY_GAP: torch.where(is_real_BN, gap_BN, PADDING)}


def test_pooled_history_is_what_the_tables_make_of_a_list_bit_for_bit(tables, table):
    batch = histories(30)
    assert torch.equal(made("pooled")(table, batch), tables({HISTORY: batch[HISTORY]})[HISTORY])


def test_attention_is_its_formula(table):
    encoder, batch = made("attention"), histories(30)
    assert isinstance(encoder, AttentiveHistory)
    found = encoder(table, batch).detach().numpy()
    item, position, gap, learned, of_newest, value = (
        tensor.detach().double().numpy()
        for tensor in (
            weight_of(table),
            encoder.position_ND,
            encoder.gap_GD,
            encoder.query_HD,
            encoder.query_of_newest.weight,
            encoder.value.weight,
        )
    )
    for user, (rows, gaps) in enumerate(zip(batch[HISTORY].numpy(), batch[HISTORY_GAP].numpy(), strict=True)):
        num_real = int((rows != PADDING).sum())
        x_MD = item[rows[:num_real]] + position[:num_real] + gap[gaps[:num_real]]
        expected = np.zeros(DIM)
        for head in range(NUM_HEADS if num_real else 0):
            own = slice(head * DIM, (head + 1) * DIM)
            query_D = learned[head] + of_newest[own] @ item[rows[0]]
            share_M = np.exp(x_MD @ query_D / np.sqrt(DIM))
            expected += value[:, own] @ (share_M / share_M.sum() @ x_MD)
        np.testing.assert_allclose(found[user], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("is_sparse", [True, False])
def test_gradients_of_the_loops_are_those_of_the_tensors(table, is_sparse):
    table.table.sparse = is_sparse
    encoder, batch = made("attention"), histories(30)
    target = torch.randn(30, DIM, generator=torch.Generator().manual_seed(2))
    trained = {"items": weight_of(table)} | dict(encoder.named_parameters())

    def gradients(forward: Callable[[], torch.Tensor]) -> dict[str, torch.Tensor]:
        found = torch.autograd.grad((forward() * target).sum(), list(trained.values()))
        return {name: gradient.to_dense() for name, gradient in zip(trained, found, strict=True)}

    def with_tensors() -> torch.Tensor:
        vector_BND = nn.functional.embedding(batch[HISTORY], weight_of(table))
        x_BND = vector_BND + encoder.position_ND + encoder.gap_GD[batch[HISTORY_GAP]]
        is_real_BN = batch[HISTORY] != PADDING
        newest_BD = vector_BND[:, 0] * is_real_BN[:, :1]
        query_BHD = encoder.query_HD + encoder.query_of_newest(newest_BD).reshape(-1, NUM_HEADS, DIM)
        return encoder.value(tensor_attention(x_BND, is_real_BN, query_BHD / DIM**0.5).flatten(1))

    loops, tensors = gradients(lambda: encoder(table, batch)), gradients(with_tensors)
    for name, expected in tensors.items():
        assert expected.abs().max() > 0.01, name
        torch.testing.assert_close(loops[name], expected, rtol=1e-4, atol=1e-5, msg=name)
    assert not loops["items"][PADDING].any()
    weight_of(table).grad = None
    encoder(table, batch).sum().backward()
    assert weight_of(table).grad.is_sparse == is_sparse


def test_attention_without_queries_positions_and_gaps_is_the_mean(table):
    """So that an untrained encoder, of which they are small, begins where pooling stands."""
    encoder, batch = query_encoder("attention", DIM, LENGTH, NUM_GAPS), histories(30)
    assert isinstance(encoder, AttentiveHistory)
    mean = made("pooled")(table, batch)
    assert 0 < (encoder(table, batch) - mean).norm() < 0.3 * mean.norm()
    with torch.no_grad():
        for weight in (encoder.position_ND, encoder.gap_GD, encoder.query_HD):
            weight.zero_()
    torch.testing.assert_close(encoder(table, batch), mean)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_sparse", [True, False])
def test_users_without_history_get_zeros_and_leave_no_gradient(table, kind, is_sparse):
    table.table.sparse = is_sparse
    nothing = {name: torch.zeros(3, LENGTH, dtype=torch.int64) for name in (HISTORY, HISTORY_GAP)}
    encoder = made(kind)
    vector_BD = encoder(table, nothing)
    assert torch.equal(vector_BD, torch.zeros(3, DIM))
    (vector_BD + weight_of(table)[FIRST_KNOWN]).sum().backward()
    trained = [weight_of(table).grad.to_dense(), *(weight.grad for weight in encoder.parameters())]
    assert all(weight.isfinite().all() for weight in trained)
    assert trained[0].any(1).nonzero().flatten().tolist() == [FIRST_KNOWN]


@pytest.mark.parametrize("kind", KINDS)
def test_a_users_vector_depends_on_no_other_user_bit_for_bit(table, kind):
    encoder, batch = made(kind), histories(64)
    with torch.no_grad():
        together = encoder(table, batch)
        for user in range(0, 64, 2):
            pair = encoder(table, {name: column[[user, (user + 31) % 64]] for name, column in batch.items()})
            torch.testing.assert_close(pair[0], together[user], rtol=1e-5, atol=1e-5)
        shuffled = torch.randperm(64, generator=torch.Generator().manual_seed(0))
        assert torch.equal(encoder(table, {name: batch[name][shuffled] for name in batch}), together[shuffled])


def test_what_stands_at_padding_changes_nothing(table):
    encoder, batch = made("attention"), histories(30)
    other_gaps = torch.where(batch[HISTORY] == PADDING, 5, batch[HISTORY_GAP])
    assert torch.equal(encoder(table, batch), encoder(table, batch | {HISTORY_GAP: other_gaps}))
    before = encoder(table, batch)
    with torch.no_grad():
        weight_of(table)[PADDING] = 100.0
    assert torch.equal(encoder(table, batch), before)


def test_scores_of_any_size_give_finite_vectors(table):
    encoder = made("attention", scale=1e4)
    vector_BD = encoder(table, histories(30))
    vector_BD.sum().backward()
    assert vector_BD.isfinite().all()
    assert all(weight.grad.isfinite().all() for weight in (weight_of(table), *encoder.parameters()))


@pytest.mark.parametrize("kind", KINDS)
def test_in_bfloat16_it_gives_about_the_same(table, kind):
    encoder, batch = made(kind, scale=0.5), histories(30)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = encoder(table, batch)
        rounded.float().sum().backward()
    torch.testing.assert_close(rounded.float(), encoder(table, batch), rtol=0.05, atol=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_onnxruntime_encodes_as_torch_does_and_each_user_alone(table, kind, tmp_path: Path):
    encoder, path = made(kind).eval(), tmp_path / "history.onnx"
    model = nn.ModuleList([encoder, table])
    example = {name: histories(64)[name] for name in encoder.inputs}
    axes = {name: {0: "users"} for name in (*example, "vector")}
    export_onnx(model, lambda batch: encoder(table, batch), example, axes, "vector", path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options)
    assert {node.name for node in session.get_inputs()} == set(encoder.inputs)

    def run(batch: Batch) -> np.ndarray:
        return session.run(None, {name: batch[name].numpy() for name in encoder.inputs})[0]

    batch = histories(37, seed=1)
    together = run(batch)
    np.testing.assert_allclose(together, encoder(table, batch).detach().numpy(), rtol=1e-4, atol=1e-5)
    for user in range(36):
        pair = run({name: column[user : user + 2] for name, column in batch.items()})
        assert np.array_equal(pair, together[user : user + 2])


def accuracy(kind: str, table: PooledEmbeddingTable) -> float:
    """How often a trained encoder finds the item taken right before the longest gap."""
    encoder, random = query_encoder(kind, DIM, LENGTH, NUM_GAPS), torch.Generator().manual_seed(3)
    optimizer = torch.optim.Adam([weight_of(table), *encoder.parameters()], 0.02)

    def world(num_users: int) -> tuple[Batch, torch.Tensor]:
        row_BN = torch.randint(FIRST_KNOWN, NUM_ROWS, (num_users, LENGTH), generator=random)
        gap_BN = torch.randint(1, 8, (num_users, LENGTH), generator=random)
        longest_B1 = torch.randint(LENGTH, (num_users, 1), generator=random)
        gap_BN.scatter_(1, longest_B1, 12)
        return {HISTORY: row_BN, HISTORY_GAP: gap_BN}, row_BN.gather(1, longest_B1).squeeze(1)

    for _ in range(250):
        batch, label_B = world(128)
        loss = nn.functional.cross_entropy(encoder(table, batch) @ weight_of(table).T, label_B)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    batch, label_B = world(1_000)
    return float(((encoder(table, batch) @ weight_of(table).T).argmax(1) == label_B).float().mean())


def test_attention_finds_what_came_before_the_longest_gap_and_pooling_does_not(tables, table):
    state = {name: value.clone() for name, value in tables.state_dict().items()}
    attention = accuracy("attention", table)
    tables.load_state_dict(state)
    pooled = accuracy("pooled", table)
    assert attention > 0.9 and pooled < 0.4
