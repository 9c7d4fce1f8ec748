"""A two-tower training starts from earlier weights: what was learned of an id holds, and nothing has seen its judge."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from features.artifact import Artifact, open_artifact
from features.batches import FeatureTables
from pipelines.config import CascadeConfig, load_saved_config
from pipelines.stages import CONFIG_FILE, run_stages
from retrieval.trained_model import untrained
from retrieval.training.trained_weights import TrainedWeights
from retrieval.training.warm_start import EarlierModels, Starts

TABLES = "tables."


@pytest.fixture(scope="module")
def grown(made, tmp_path_factory) -> tuple[CascadeConfig, Artifact]:
    """The configuration with the later logs, and features of both."""
    run = Path(shutil.copytree(made.run, tmp_path_factory.mktemp("grown") / "run"))
    config = load_saved_config(run / CONFIG_FILE, [f'--data.append=["{made.later}"]', "--retrieval.warm-start=true"])
    run_stages(config, run, "etl", say=lambda line: None)
    return config, open_artifact(run / "etl", "etl")


@pytest.fixture
def model(grown):
    config, etl = grown
    torch.manual_seed(5)
    return untrained(FeatureTables(etl), config.retrieval)


@pytest.fixture
def earlier(made, grown, model) -> EarlierModels:
    config, etl = grown
    found = EarlierModels.of(made.run / "retrieval", etl, config.retrieval, model, pytest.fail)
    assert found is not None
    return found


def test_old_rows_keep_their_weights_and_new_rows_are_fresh(made, earlier, grown, model):
    fresh = {name: value.clone() for name, value in model.state_dict().items()}
    was = load_file(made.run / "retrieval" / "model.safetensors")
    start = earlier.start(grown[1].metrics["test_from"])
    assert start is not None
    start.put_into(model)
    now, num_new = model.state_dict(), 0
    assert now.keys() == was.keys() and all(now[name].shape == fresh[name].shape for name in now)
    for name in (name for name in now if name.startswith(TABLES)):
        num_old = len(was[name])
        assert torch.equal(now[name][:num_old], was[name]) and torch.equal(now[name][num_old:], fresh[name][num_old:])
        num_new += len(now[name]) - num_old
    assert num_new > 0, "new users or items came"
    assert torch.equal(now["query_tower.project.weight"], was["query_tower.project.weight"])


def test_what_reads_texts_begins_anew_and_the_rest_of_its_layer_does_not(made, earlier, grown, model):
    name, width = "item_tower.mlp.values.1.to_wrap.weight", 32
    fresh, was = model.state_dict()[name].clone(), load_file(made.run / "retrieval" / "model.safetensors")[name]
    earlier.start(grown[1].metrics["test_from"]).put_into(model)
    now = model.state_dict()[name]
    assert torch.equal(now[:, -width:], fresh[:, -width:]) and torch.equal(now[:, :-width], was[:, :-width])


def test_a_row_that_was_trained_for_long_goes_on_in_small_steps(made, earlier, grown, model):
    start = earlier.start(grown[1].metrics["test_from"])
    start.put_into(model)
    weights = TrainedWeights(model, grown[0].retrieval)
    start.take_sums(weights)
    was = load_file(made.run / "retrieval" / "accumulators.safetensors")
    assert was.keys() == weights.row_sums.keys()
    for name, sum_R in weights.row_sums.items():
        assert torch.equal(sum_R[: len(was[name])], was[name]) and not sum_R[len(was[name]) :].any()
    assert any(sum_R.any() for sum_R in was.values())


def test_no_training_starts_from_weights_that_have_seen_what_judges_it(made, earlier, grown):
    first = open_artifact(made.run / "etl", "etl").metrics
    etl = grown[1].metrics
    assert first["valid_from"] < etl["valid_from"] < etl["test_from"]
    assert {first["valid_from"], first["test_from"]} <= set(earlier.moments)
    for moment in (etl["valid_from"], etl["test_from"], first["valid_from"], first["test_from"] - 1):
        assert earlier.start(moment).moment == max(one for one in earlier.moments if one <= moment)
    assert earlier.start(first["test_from"] - 1).moment == first["valid_from"]
    assert earlier.start(0) is None


def test_a_changed_network_begins_anew_and_says_why(made, grown, model):
    config, etl = grown
    lines: list[str] = []
    other = load_saved_config(made.run / CONFIG_FILE, ["--retrieval.two-tower.embedding-dim=8"]).retrieval
    assert EarlierModels.of(made.run / "retrieval", etl, other, model, lines.append) is None
    assert "another retrieval.two_tower.embedding_dim" in lines[0] and "begins anew" in lines[0]
    assert EarlierModels.of(made.run / "nowhere", etl, config.retrieval, model, lines.append) is None
    assert "there is no earlier model" in lines[1]


def test_trainings_that_begin_anew_make_the_passes_of_one_that_did(made, grown, model):
    config, etl = grown
    starts = Starts.of(config.retrieval, made.run / "retrieval", etl, lambda: model, lambda line: None)
    cold = open_artifact(made.run / "retrieval", "retrieval").metrics["best_epoch"]
    valid_from = etl.metrics["valid_from"]
    assert starts.most_epochs(valid_from) == config.retrieval.warm_start_epochs
    starts.choose(1, valid_from)
    assert starts.epochs(etl.metrics["test_from"]) == 1
    assert starts.epochs(0) == cold == starts.cold_epochs
    never = Starts.of(config.retrieval, None, etl, lambda: model, pytest.fail)
    assert never.at(valid_from) is None and never.most_epochs(valid_from) == config.retrieval.max_epochs
