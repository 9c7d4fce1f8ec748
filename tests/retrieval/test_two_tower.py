"""The two towers, their scores and their export."""

import math

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file

from features.batches import FeatureTables
from features.embedding import table_of
from features.schema import FIRST_KNOWN, UNSEEN
from retrieval.config import TwoTowerConfig
from retrieval.export import export_query_encoder
from retrieval.popularity import NEW, NUM_COORDINATES
from retrieval.two_tower import TwoTower, item_vectors


@pytest.fixture(scope="module")
def tables(opened) -> FeatureTables:
    return FeatureTables(opened("etl"))


def made(tables: FeatureTables, seed: int = 0) -> TwoTower:
    torch.manual_seed(seed)
    model = TwoTower(tables.schema, TwoTowerConfig(embedding_dim=8, hidden_units=(16,), temperature=0.25))
    model.queries(tables.users), model.items(tables.items)
    return model.eval()


def test_towers_give_unit_vectors(tables: FeatureTables):
    model = made(tables)
    unit, weight = model.queries(tables.users)
    assert torch.allclose((unit * model.temperature).norm(dim=1), torch.ones(len(unit)), atol=1e-5)
    assert weight.shape == (len(unit), NUM_COORDINATES)
    assert torch.allclose(model.items(tables.items).norm(dim=1), torch.ones(len(tables.items["item_id"])), atol=1e-5)


@pytest.fixture
def popularity(tables: FeatureTables) -> torch.Tensor:
    """[I, P] in which every third item is new."""
    popularity_IP = torch.rand(
        len(tables.items["item_id"]), NUM_COORDINATES, generator=torch.Generator().manual_seed(0)
    )
    popularity_IP[:, NEW] = (torch.arange(len(popularity_IP)) % 3 == 0).float()
    return popularity_IP


def scores(model: TwoTower, tables: FeatureTables, popularity: torch.Tensor, query=None) -> torch.Tensor:
    """[U, I] of `TwoTower.scores`, as a training step asks for them."""
    nameless = tables.items | {"item_id": torch.full_like(tables.items["item_id"], UNSEEN)}
    query = query or model.queries(tables.users)
    every = popularity.expand(len(query[0]), *popularity.shape)
    return model.scores(query, model.items(tables.items), model.items(nameless), every)


@torch.no_grad()
def test_a_score_is_cosine_by_temperature_plus_weighted_popularity(tables: FeatureTables, popularity: torch.Tensor):
    model = made(tables)
    old = popularity * torch.tensor([1.0] * NEW + [0.0])
    unit, weight = model.queries(tables.users)
    expected = unit @ model.items(tables.items).T + weight @ old.T
    assert torch.allclose(scores(model, tables, old), expected, atol=1e-5)
    assert model.temperature.item() == pytest.approx(0.25)


@torch.no_grad()
def test_the_inner_product_of_the_vectors_is_the_score(tables: FeatureTables, popularity: torch.Tensor):
    model = made(tables)
    vectors = item_vectors(model, tables.items, popularity)
    assert vectors.shape == (len(popularity), model.query_width) and vectors.dtype == np.float32
    found = model.query_vectors(tables.users) @ torch.from_numpy(vectors).T
    assert torch.allclose(found, scores(model, tables, popularity), atol=1e-5)


@torch.no_grad()
def test_an_item_without_a_past_is_scored_by_its_content_alone(tables: FeatureTables, popularity: torch.Tensor):
    """Whatever a later training made of its id, neither the scores nor the vectors know it."""
    model, other = made(tables), made(tables)
    is_new = popularity[:, NEW] > 0
    new_ids = tables.items["item_id"][is_new & (tables.items["item_id"] >= FIRST_KNOWN)]
    assert len(new_ids)
    table_of(other.tables, "item_id").table.weight[new_ids] += 7.0
    query = model.queries(tables.users)  # the same users ask both
    mine, theirs = (scores(one, tables, popularity, query) for one in (model, other))
    assert torch.equal(mine, theirs)
    np.testing.assert_array_equal(*(item_vectors(one, tables.items, popularity) for one in (model, other)))
    seen = torch.zeros_like(popularity)
    mine, theirs = (scores(one, tables, seen, query) for one in (model, other))
    assert not torch.allclose(mine[:, is_new], theirs[:, is_new]) and torch.equal(mine[:, ~is_new], theirs[:, ~is_new])


def test_the_temperature_stays_away_from_zero(tables: FeatureTables):
    model = made(tables)
    with torch.no_grad():
        model.log_temperature.fill_(math.log(1e-6))
    assert model.temperature.item() == pytest.approx(0.01)


@pytest.mark.parametrize("num_users", [1, 64])
def test_onnxruntime_encodes_queries_as_torch_does(tables: FeatureTables, tmp_path, num_users):
    model = made(tables)
    export_query_encoder(model, tables, tmp_path / "query_encoder.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "query_encoder.onnx"))
    inputs = {node.name: tables.users[node.name][-num_users:] for node in session.get_inputs()}
    assert set(inputs) == {*model.query_tower.categorical, *model.query_tower.continuous}
    with torch.no_grad():
        expected = model.query_vectors(inputs).numpy()
    found = session.run(["query_vector"], {name: values.numpy() for name, values in inputs.items()})[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_weights_survive_saving_and_loading(tables: FeatureTables, tmp_path):
    model, other = made(tables, seed=0), made(tables, seed=1)
    save_file(model.state_dict(), str(tmp_path / "model.safetensors"))
    other.load_state_dict(load_file(str(tmp_path / "model.safetensors")))
    assert torch.equal(other.query_vectors(tables.users), model.query_vectors(tables.users))
    assert torch.equal(other.items(tables.items), model.items(tables.items))
