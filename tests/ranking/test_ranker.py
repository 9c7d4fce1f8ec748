"""The ranker: its interaction, its two ways to score, what it starts from, and its export."""

import numpy as np
import onnxruntime
import pytest
import torch
from merlin.models.torch.blocks.dlrm import DLRMInteraction
from safetensors.torch import load_file, save_file

from features.batches import Batch, FeatureTables
from ranking.config import DlrmConfig, NetworkConfig
from ranking.export import example_batch, export_ranker
from ranking.pair_features import (
    RETRIEVAL_ONLY,
    RETRIEVAL_SCORE,
    SCORES,
    SIMILARITIES,
    TWO_TOWER_SCORE,
    affinity_name,
    attribute_names,
    is_per_candidate,
    ranker_schema,
    relative_names,
    source_feature,
)
from ranking.ranker import Ranker

SOURCES = ["two_tower", "new_items", "covisitation"]


@pytest.fixture(scope="module")
def tables(opened) -> FeatureTables:
    return FeatureTables(opened("etl"))


def made(tables: FeatureTables, seed: int = 0, trained: bool = True) -> Ranker:
    """A model with random weights; `trained` gives the last layer some too, which it starts without."""
    torch.manual_seed(seed)
    config = NetworkConfig(embedding_dim=8, dlrm=DlrmConfig(bottom_units=(16,), top_units=(32, 16)))
    model = Ranker(ranker_schema(tables.schema, SOURCES), config)
    model.score_candidates(example_batch(tables.schema, SOURCES))
    if trained:
        torch.nn.init.normal_(model.output.weight)
        for weight in model.tables.parameters():
            torch.nn.init.normal_(weight)
    return model.eval()


def flattened(batch: Batch, num_candidates: int) -> Batch:
    return {
        name: values.flatten(0, 1) if is_per_candidate(name) else values.repeat_interleave(num_candidates, dim=0)
        for name, values in batch.items()
    }


def test_the_interaction_is_every_pairwise_dot_product():
    vectors = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    found = DLRMInteraction()(vectors)
    expected = [[row[i] @ row[j] for i in range(4) for j in range(i + 1, 4)] for row in vectors]
    assert torch.allclose(found, torch.tensor(expected), atol=1e-6)


@torch.no_grad()
def test_candidates_score_as_their_pairs_do(tables: FeatureTables):
    model, batch = made(tables), example_batch(tables.schema, SOURCES, num_users=4, num_candidates=7)
    assert torch.allclose(model.score_candidates(batch).flatten(), model(flattened(batch, 7)), atol=1e-5)


@torch.no_grad()
def test_untrained_it_keeps_the_retrieval_score(tables: FeatureTables):
    batch = example_batch(tables.schema, SOURCES, 6, 9)
    assert torch.equal(made(tables, trained=False).score_candidates(batch), batch[RETRIEVAL_SCORE])


@torch.no_grad()
def test_what_it_adds_does_not_depend_on_the_unit_of_the_scores(tables: FeatureTables):
    model, batch = made(tables), example_batch(tables.schema, SOURCES, 6, 9)
    scores = {name: batch[name] for name in SCORES}
    model.set_score_scale(scores)
    added = model.score_candidates(batch) - scores[RETRIEVAL_SCORE]
    scaled = {RETRIEVAL_SCORE: scores[RETRIEVAL_SCORE] * 50 + 3, TWO_TOWER_SCORE: scores[TWO_TOWER_SCORE] * 0.2 - 8}
    model.set_score_scale(scaled)
    other = model.score_candidates(batch | scaled) - scaled[RETRIEVAL_SCORE]
    assert torch.allclose(added, other, atol=1e-4)


def test_the_scale_is_mean_and_deviation_of_each_score(tables: FeatureTables):
    model = made(tables)
    scores = {RETRIEVAL_SCORE: torch.tensor([[1.0, 5.0], [9.0, 5.0]]), TWO_TOWER_SCORE: torch.full((2, 2), 3.0)}
    model.set_score_scale(scores)
    assert model.score_mean.tolist() == [5, 3]
    assert model.score_deviation[0].item() == pytest.approx(32**0.5 / 3**0.5)
    assert 0 < model.score_deviation[1].item() < 1e-5  # all alike: nothing is divided by zero


@torch.no_grad()
@pytest.mark.parametrize("name", [TWO_TOWER_SCORE, *map(source_feature, SOURCES)])
def test_what_every_source_said_reaches_the_score(tables: FeatureTables, name):
    model, batch = made(tables), example_batch(tables.schema, SOURCES, 4, 7)
    changed = batch[name].clone()
    changed[2, 5] += 2
    differs = model.score_candidates(batch) != model.score_candidates(batch | {name: changed})
    assert differs.nonzero().tolist() == [[2, 5]]


def test_ids_and_absolute_numbers_do_not_reach_it(tables: FeatureTables):
    names = ranker_schema(tables.schema, SOURCES).column_names
    assert not set(RETRIEVAL_ONLY) & set(names)
    of_pair = {*SCORES, *map(source_feature, SOURCES), *SIMILARITIES, *relative_names(tables.schema)}
    of_pair |= {affinity_name(name) for name in attribute_names(tables.schema)}
    assert set(names) == {*tables.schema.column_names, *of_pair} - set(RETRIEVAL_ONLY)
    assert set(made(tables).inputs) == set(names)
    assert all(is_per_candidate(name) for name in of_pair)


@torch.no_grad()
def test_trust_scales_what_it_adds_to_the_retrieval_score(tables: FeatureTables):
    model, batch = made(tables), example_batch(tables.schema, SOURCES, 4, 7)
    whole = model.score_candidates(batch) - batch[RETRIEVAL_SCORE]
    model.trust(0.25)
    assert torch.allclose(model.score_candidates(batch) - batch[RETRIEVAL_SCORE], whole / 4, atol=1e-5)
    model.trust(0)
    assert torch.equal(model.score_candidates(batch), batch[RETRIEVAL_SCORE])


@pytest.mark.parametrize(("num_users", "num_candidates"), [(1, 1), (1, 200), (64, 13)])
def test_onnxruntime_scores_as_torch_does(tables: FeatureTables, tmp_path, num_users, num_candidates):
    model = made(tables)
    export_ranker(model, tables, SOURCES, tmp_path / "ranker.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "ranker.onnx"))
    batch = example_batch(tables.schema, SOURCES, num_users, num_candidates)
    assert {node.name for node in session.get_inputs()} == set(model.inputs)
    with torch.no_grad():
        expected = model.score_candidates(batch).numpy()
    found = session.run(["score"], {name: values.numpy() for name, values in batch.items()})[0]
    assert found.shape == (num_users, num_candidates)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@torch.no_grad()
def test_weights_and_score_scale_survive_saving_and_loading(tables: FeatureTables, tmp_path):
    model, other = made(tables, seed=0), made(tables, seed=1)
    model.set_score_scale({name: torch.tensor([1.0, 5.0, 9.0]) + place for place, name in enumerate(SCORES)})
    save_file(model.state_dict(), str(tmp_path / "model.safetensors"))
    other.load_state_dict(load_file(str(tmp_path / "model.safetensors")))
    batch = example_batch(tables.schema, SOURCES)
    assert torch.equal(other.score_candidates(batch), model.score_candidates(batch))
