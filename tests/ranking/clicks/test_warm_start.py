"""A click model that starts from the run's earlier one: logs, an append, and real files in between."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from features.artifact import Artifact, open_artifact, writing
from features.schema import load_schema
from pipelines.__main__ import main
from pipelines.config import as_document, load_saved_config
from ranking.clicks.batches import ClickBatches
from ranking.clicks.new_rows import rows_behind
from ranking.clicks.ranker import ClickRanker
from ranking.clicks.train import rates_of, run
from ranking.clicks.warm_start import start_from_earlier, table_sums
from ranking.config import RankingConfig
from ranking.training.trained_weights import TrainedWeights

WORDS = [
    "--ranking.network.embedding-dim=4",
    "--ranking.network.dlrm.bottom-units=[8]",
    "--ranking.network.dlrm.top-units=[16]",
    "--ranking.clicks.max-epochs=3",
    "--ranking.clicks.warm-start=true",
    "--ranking.calibration=none",
]


class World:
    """A run on some made logs, its first ranker, and the features after an append."""

    def __init__(self, folder: Path, num_rows: int) -> None:
        logs, self.out = folder / "logs", folder / "run"
        assert main(["synth", "criteo", "--out", str(logs), "--rows", str(num_rows), "--format", "parquet"]) == 0
        days = sorted(logs.glob("*.parquet"))
        for name, files in (("first", days[:-4]), ("second", days[-4:])):
            (folder / name).mkdir()
            for file in files:
                shutil.move(file, folder / name)
        (folder / "cascade.toml").write_text(
            f'[data]\nadapter = "criteo"\n[data.criteo]\ntrain = "{folder}/first"\nsplit = "random"\n'
            "[etl.impressions]\nmin_frequency = 2\n"
        )
        assert main(["run", "--config", str(folder / "cascade.toml"), "--out", str(self.out), *WORDS]) == 0
        shutil.copytree(self.out / "etl", folder / "etl")
        shutil.copytree(self.out / "ranking", folder / "ranking")
        assert main(["etl", "--out", str(self.out), "--append", str(folder / "second")]) == 0
        self.first_etl = open_artifact(folder / "etl", "etl")
        self.first = open_artifact(folder / "ranking", "ranking")
        self.etl = open_artifact(self.out / "etl", "etl")
        self.config = load_saved_config(self.out / "config.json").ranking

    def ranked(self, path: Path, config: RankingConfig, earlier: Path | None, etl: Artifact | None = None) -> Artifact:
        """The ranker of the appended logs; what was said stands in `said`."""
        self.said: list[str] = []
        etl = etl or self.etl
        with writing(path, "ranking", as_document(config), 42, {"etl": etl.content_hash}) as writer:
            run(config, etl, 42, writer, say=self.said.append, earlier=earlier)
        return open_artifact(path, "ranking")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"), 6_000)


def model_of(etl: Artifact, config: RankingConfig) -> ClickRanker:
    schema = load_schema(etl.file("schema.json"))
    fitted = ClickBatches(etl.files("examples/train/"), schema, 256, 0)
    torch.manual_seed(7)
    return ClickRanker(schema, config.network, fitted.statistics, config.clicks.l2)


def curve_of(artifact: Artifact) -> list[dict]:
    return json.loads(artifact.file("learning_curve.json").read_text())


@pytest.mark.parametrize("tables", ["plain", "fused"])
def test_earlier_ids_keep_their_vectors_and_how_far_they_were_trained(world: World, tables: str):
    config = replace(world.config, network=replace(world.config.network, tables=tables))
    model, fresh = model_of(world.etl, config), model_of(world.etl, config)
    fitted = ClickBatches(world.etl.files("examples/train/"), load_schema(world.etl.file("schema.json")), 256, 0)
    weights = TrainedWeights(model, rates_of(config.clicks, fitted))
    assert start_from_earlier(world.first.path, world.etl, config.network, model, weights, lambda line: None)
    state, sums = (
        load_file(world.first.file("model.safetensors")),
        load_file(world.first.file("accumulators.safetensors")),
    )
    num_new = 0
    for name, weight_RD in model.tables.weights().items():
        was = state[f"tables.{name}.weight"]
        assert torch.equal(weight_RD[: len(was)], was)
        assert torch.equal(weight_RD[len(was) :], fresh.tables.weights()[name][len(was) :])
        sum_R = table_sums(model, weights)[name]
        assert torch.equal(sum_R[: len(was)], sums[name]) and not sum_R[len(was) :].any() and sums[name].sum() > 0
        num_new += len(weight_RD) - len(was)
    assert num_new > 0, "the append brought new categories"
    assert torch.equal(model.output.weight, state["output.weight"])


def test_it_trains_on_the_new_rows_only_from_where_the_earlier_ranker_stands(world: World, tmp_path: Path):
    artifact = world.ranked(tmp_path / "ranking", world.config, world.first.path)
    assert world.said[0].startswith(f"{world.first.path}: training starts from this ranker's weights, with")
    assert artifact.metrics["started_from"] == 1 and artifact.metrics["vocabulary"]["number"] == 2
    before, after = curve_of(artifact)
    num_new = artifact.metrics["num_train_rows"] - world.first.metrics["num_train_rows"]
    assert after["seconds"] * after["rows_per_second"] == pytest.approx(num_new)
    assert before["valid_auc"] > 0.55, "untrained it would be 0.5"
    fresh = curve_of(world.first)[0]["valid_log_loss"]
    assert before["valid_log_loss"] < fresh


def test_the_stage_of_a_run_starts_from_its_own_earlier_ranker(world: World, capsys: pytest.CaptureFixture):
    assert main(["ranking", "--out", str(world.out)]) == 0
    assert f"{world.out}/ranking: training starts from this ranker's weights" in capsys.readouterr().out
    assert open_artifact(world.out / "ranking", "ranking").metrics["started_from"] == 1
    assert main(["ranking", "--out", str(world.out)]) == 0
    assert "unchanged, skipped" in capsys.readouterr().out


def test_with_all_rows_an_epoch_is_the_whole_train_part(world: World, tmp_path: Path):
    config = replace(world.config, clicks=replace(world.config.clicks, warm_start_rows="all"))
    _, after = curve_of(world.ranked(tmp_path / "ranking", config, world.first.path))
    assert after["seconds"] * after["rows_per_second"] == pytest.approx(world.etl.metrics["num_impressions"]["train"])


def test_without_new_rows_it_trains_on_all_and_says_so(world: World, tmp_path: Path):
    artifact = world.ranked(tmp_path / "ranking", world.config, world.first.path, world.first_etl)
    assert "no rows that the earlier ranker has not seen" in world.said[1]
    assert artifact.metrics["started_from"] == 1


@pytest.mark.parametrize("changed", ["nothing there", "network", "features", "damaged"])
def test_what_cannot_be_started_from_is_said_and_training_begins_anew(world: World, changed: str, tmp_path: Path):
    earlier, config, etl, said = world.first.path, world.config, world.etl, ""
    if changed == "nothing there":
        earlier, said = tmp_path / "none", "there is no earlier ranker to start from"
    elif changed == "network":
        config = replace(config, network=replace(config.network, embedding_dim=8))
        said = "it has another ranking.network.embedding_dim"
    elif changed == "features":
        etl, said = world.first_etl, "some of its ids mean something else now"
        earlier = world.ranked(tmp_path / "longer", config, None).path
    else:
        earlier = shutil.copytree(earlier, tmp_path / "damaged")
        (earlier / "model.safetensors").write_bytes(b"")
        said = "is damaged"
    warm = world.ranked(tmp_path / "warm", config, earlier, etl)
    assert len(world.said) == 1 and said in world.said[0] and world.said[0].endswith("training begins anew")
    assert warm.metrics["started_from"] is None
    cold = world.ranked(
        tmp_path / "cold", replace(config, clicks=replace(config.clicks, warm_start=False)), earlier, etl
    )
    assert warm.file("model.safetensors").read_bytes() == cold.file("model.safetensors").read_bytes()


def test_rows_behind_leaves_out_the_first_and_keeps_the_order(tmp_path: Path):
    paths = [tmp_path / f"part_{number}.parquet" for number in range(3)]
    for number, path in enumerate(paths):
        pq.write_table(pa.table({"row": range(10 * number, 10 * number + 10)}), path)
    (tmp_path / "cut").mkdir()
    for num_known in (0, 1, 9, 10, 11, 25, 29, 30, 40):
        found = rows_behind(paths, num_known, tmp_path / "cut")
        rows = [row for path in found for row in pq.read_table(path)["row"].to_pylist()]
        assert rows == list(range(num_known, 30))


@pytest.mark.slow
def test_it_reaches_the_loss_of_training_from_scratch_in_a_fraction_of_the_steps(tmp_path: Path):
    world = World(tmp_path, 60_000)
    config = replace(world.config, clicks=replace(world.config.clicks, max_epochs=10, l2=1.0))
    scratch = world.ranked(tmp_path / "scratch", replace(config, clicks=replace(config.clicks, warm_start=False)), None)
    warm = world.ranked(tmp_path / "warm", config, world.first.path)
    num_rows = scratch.metrics["num_train_rows"] * scratch.metrics["best_epoch"]
    num_new = warm.metrics["num_train_rows"] - world.first.metrics["num_train_rows"]
    assert warm.metrics["valid_log_loss"] < scratch.metrics["valid_log_loss"] + 0.005
    assert num_new < num_rows / 4
