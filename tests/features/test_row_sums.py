"""Sums of gradients by row against torch's dense gradients, and the sparse mean over lists with them."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from merlin.schema import ColumnSchema, Schema, Tags

from features.embedding import WHOLE_UP_TO, embedding_tables, with_sparse_gradients
from features.row_sums import RowSums

DIM, NUM_ROWS = 3, WHOLE_UP_TO + 50


@settings(deadline=None)  # the first call compiles
@given(st.lists(st.integers(0, 9), max_size=40))
def test_sums_are_those_of_index_add_and_the_next_call_starts_from_nothing(rows: list[int]):
    torch.manual_seed(0)
    row_sums = RowSums(10)
    for _ in range(2):
        row_N, gradient_ND = torch.tensor(rows, dtype=torch.int64), torch.randn(len(rows), DIM)
        row_U, sum_UD = row_sums(row_N, gradient_ND)
        assert len(set(row_U.tolist())) == len(row_U)
        dense = np.zeros((10, DIM), np.float32)
        dense[row_U] = sum_UD
        expected = torch.zeros(10, DIM).index_add_(0, row_N, gradient_ND)
        np.testing.assert_allclose(dense, expected.numpy(), atol=1e-5)


def tables(length: int = 4):
    torch.manual_seed(0)
    domain = {"domain": {"min": 0, "max": NUM_ROWS - 1, "name": "item"}}
    item = ColumnSchema("item_id", dtype=np.int64, tags=[Tags.CATEGORICAL], properties=domain)
    history = ColumnSchema("history", dtype=np.int64, tags=[Tags.CATEGORICAL], properties=domain, dims=(None, length))
    small = {"domain": {"min": 0, "max": 9, "name": "colour"}}
    colour = ColumnSchema("colour", dtype=np.int64, tags=[Tags.CATEGORICAL], properties=small)
    return embedding_tables(Schema([item, history, colour]), DIM)


@settings(deadline=None)  # the first call compiles
@given(st.lists(st.lists(st.sampled_from([0, 1, 5, NUM_ROWS - 1]), min_size=4, max_size=4), min_size=1, max_size=5))
def test_sparse_gradients_are_the_dense_ones(lists: list[list[int]]):
    batch = {"item_id": torch.tensor([5] * len(lists)), "history": torch.tensor(lists)}
    batch["colour"] = batch["item_id"]
    dense, sparse = tables(), tables()
    with_sparse_gradients(sparse)
    for model in (dense, sparse):
        vectors = model(batch)
        sum((vector * torch.arange(1.0, DIM + 1)).square().sum() for vector in vectors.values()).backward()
    for (name, one), (_, other) in zip(dense.named_parameters(), sparse.named_parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert other.grad.is_sparse == ("item" in name)
        torch.testing.assert_close(one.grad, other.grad.to_dense())


def test_vectors_are_the_same_with_sparse_gradients():
    batch = {"history": torch.tensor([[3, 5, 0, 0], [0, 0, 0, 0]])}
    dense, sparse = tables(), tables()
    with_sparse_gradients(sparse)
    assert torch.equal(dense(batch)["history"], sparse(batch)["history"])
