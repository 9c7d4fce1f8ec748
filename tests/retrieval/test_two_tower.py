"""The two towers, their scores and their export."""

import math

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file

from features.batches import FeatureTables
from retrieval.config import TwoTowerConfig
from retrieval.export import export_query_encoder
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
    assert weight.shape == (len(unit), 1)
    assert torch.allclose(model.items(tables.items).norm(dim=1), torch.ones(len(tables.items["item_id"])), atol=1e-5)


def test_the_inner_product_is_cosine_by_temperature_plus_weighted_popularity(tables: FeatureTables):
    model = made(tables)
    popularity = torch.rand(len(tables.items["item_id"]))
    with torch.no_grad():
        scores = model.query_vectors(tables.users) @ torch.from_numpy(item_vectors(model, tables.items, popularity)).T
        unit, weight = model.queries(tables.users)
        expected = unit @ model.items(tables.items).T + weight * popularity
    assert torch.allclose(scores, expected, atol=1e-5)
    assert model.temperature.item() == pytest.approx(0.25)


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
