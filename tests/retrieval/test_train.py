"""The retrieval stage: what it learns, what it writes, and that it does so again."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from features.artifact import Artifact, open_artifact, writing
from features.schema import FIRST_KNOWN, UNSEEN
from retrieval.config import IndexConfig, RetrievalConfig, TwoTowerConfig
from retrieval.index import build, search
from retrieval.train import run
from retrieval.validation import UnseenIds

CONFIG = RetrievalConfig(
    two_tower=TwoTowerConfig(embedding_dim=16, hidden_units=(32,)),
    batch_size=64,
    learning_rate=0.01,
    max_epochs=12,
    patience=12,
    recall_at=1,
    num_proposals=5,
)


def matrix(path: Path, column: str) -> np.ndarray:
    return np.stack(pq.read_table(path, columns=[column])[column].to_numpy())


def trained(etl: Artifact, folder: Path, config: RetrievalConfig = CONFIG, seed: int = 0) -> Artifact:
    with writing(folder, "retrieval", {}, seed, {"etl": etl.content_hash}) as writer:
        run(config, etl, seed, writer)
    return open_artifact(folder, "retrieval", inputs=[etl])


@pytest.fixture(scope="module")
def artifact(toy_etl: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return trained(toy_etl, tmp_path_factory.mktemp("toy") / "retrieval")


def test_the_withheld_item_comes_first(toy_etl: Artifact, artifact: Artifact):
    index = build(matrix(artifact.file("item_vectors.parquet"), "vector"), IndexConfig())
    found, _ = search(index, matrix(artifact.file("user_vectors.parquet"), "vector"), 32)
    users = pq.read_table(toy_etl.file("users.parquet"))
    events = pq.read_table(toy_etl.file("events.parquet")).to_pandas()
    right = 0
    for user in range(len(users)):
        seen = set(events[events.user_row == user].item_row)
        first = next(item for item in found[user].tolist() if item not in seen)
        right += first == user // 40 * 8 + user % 8
    assert right / len(users) > 0.95


def test_equal_inputs_and_seed_give_an_equal_artifact(toy_etl: Artifact, artifact: Artifact, tmp_path: Path):
    assert trained(toy_etl, tmp_path / "retrieval").content_hash == artifact.content_hash


def test_another_seed_gives_another_model(toy_etl: Artifact, artifact: Artifact, tmp_path: Path):
    other = trained(toy_etl, tmp_path / "retrieval", CONFIG, seed=1)
    name = "item_vectors.parquet"
    assert not np.array_equal(matrix(other.file(name), "vector"), matrix(artifact.file(name), "vector"))


def test_proposals_belong_to_those_who_came_back_best_first(toy_etl: Artifact, artifact: Artifact):
    proposals = pq.read_table(artifact.file("proposals.parquet"))
    valid = pq.read_table(toy_etl.path / "examples/valid")
    of_valid = proposals.filter(pc.equal(proposals["origin"], 0))
    assert of_valid["user_row"].to_pylist() == sorted(set(valid["user_row"].to_pylist()))
    rows, scores = (matrix(artifact.file("proposals.parquet"), name) for name in ("item_row", "merged_score"))
    for row, score in zip(rows, scores, strict=True):
        filled = row[row >= 0]
        assert len(filled) == len(set(filled.tolist())) > 0
        assert (np.diff(score[row >= 0]) <= 1e-6).all(), "no item is new here, so none has moved up"


def test_an_earlier_origin_knows_nothing_of_what_came_then(toy_etl, toy_logs, make_etl, tmp_path: Path):
    """What happens between an earlier origin and the validation part does not change what is proposed at it."""
    log, metrics = toy_logs.interactions, toy_etl.metrics
    time = log["timestamp"].to_numpy()
    origin = 2 * metrics["valid_from"] - metrics["test_from"]
    between = (time >= origin) & (time < metrics["valid_from"])
    items = log["item_id"].to_numpy(zero_copy_only=False).copy()
    assert between.any()
    items[between] = np.random.default_rng(0).permutation(items[between])
    changed = make_etl(replace(toy_logs, interactions=log.set_column(1, "item_id", pa.array(items))))
    found = []
    config = replace(CONFIG, max_epochs=1, refit=False)
    for name, etl in (("one", toy_etl), ("two", changed)):
        vectors = pq.read_table(trained(etl, tmp_path / name, config).file("proposing_vectors.parquet"))
        found.append(np.stack(vectors["vector"].to_numpy()).reshape(2, etl.metrics["num_items"], -1))
    np.testing.assert_array_equal(found[0][1], found[1][1])
    assert not np.array_equal(found[0][0], found[1][0])


def test_the_proposing_model_knows_nothing_from_the_validation_part_on(toy_etl, toy_logs, make_etl, tmp_path: Path):
    log = toy_logs.interactions
    time = log["timestamp"].to_numpy()
    items = log["item_id"].to_numpy(zero_copy_only=False).copy()
    later = time >= toy_etl.metrics["valid_from"]
    items[later] = np.random.default_rng(0).permutation(items[later])
    changed = make_etl(replace(toy_logs, interactions=log.set_column(1, "item_id", pa.array(items))))
    config = replace(CONFIG, max_epochs=1, refit=False)
    one, two = trained(toy_etl, tmp_path / "one", config), trained(changed, tmp_path / "two", config)
    assert not pq.read_table(one.file("proposals.parquet")).equals(pq.read_table(two.file("proposals.parquet")))
    name = "proposing_vectors.parquet"
    np.testing.assert_array_equal(matrix(one.file(name), "vector"), matrix(two.file(name), "vector"))


def test_ids_that_the_train_part_lacks_are_shown_as_unseen(toy_etl: Artifact):
    bound = FIRST_KNOWN + toy_etl.metrics["num_train_users"]
    hidden = UnseenIds(toy_etl)({"user_id": torch.tensor([bound - 1, bound, UNSEEN]), "age": torch.tensor([1.0] * 3)})
    assert hidden["user_id"].tolist() == [bound - 1, UNSEEN, UNSEEN]
    assert hidden["age"].tolist() == [1.0] * 3


def test_the_best_epoch_is_the_one_of_highest_recall(artifact: Artifact):
    recalls = [epoch["recall"] for epoch in json.loads(artifact.file("learning_curve.json").read_text())]
    assert artifact.metrics["best_epoch"] == 1 + int(np.argmax(recalls))
    assert artifact.metrics["valid_recall_at_1"] == max(recalls)
    assert all(0 <= recall <= 1 for recall in recalls)
