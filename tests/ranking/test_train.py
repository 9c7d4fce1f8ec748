"""The ranking stage: its examples, what it learns, and that it does so again."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.artifact import Artifact, open_artifact, writing
from features.batches import Batches, FeatureTables
from features.history import EventLog
from features.split import VALID
from features.workflow import normalized_log
from ranking.config import DlrmConfig, NegativesConfig, NetworkConfig, RankingConfig
from ranking.examples import source_names, write_examples
from ranking.pair_features import is_per_candidate
from ranking.train import run, train

CONFIG = RankingConfig(
    network=NetworkConfig(embedding_dim=8, dlrm=DlrmConfig(bottom_units=(16,), top_units=(32, 16))),
    batch_size=32,
    max_epochs=2,
)


@pytest.fixture(scope="module")
def etl(opened) -> Artifact:
    return opened("etl")


@pytest.fixture(scope="module")
def retrieval(opened) -> Artifact:
    return opened("retrieval")


@pytest.fixture(scope="module")
def events(etl: Artifact) -> pd.DataFrame:
    return pq.read_table(etl.file("events.parquet")).to_pandas()


@pytest.fixture(scope="module")
def lists(etl: Artifact, retrieval: Artifact, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    path = tmp_path_factory.mktemp("lists") / "all.parquet"
    return write_examples(NegativesConfig(num_negatives=6), etl, retrieval, 0, path).to_pandas()


def ranked(etl: Artifact, retrieval: Artifact, folder: Path, config: RankingConfig = CONFIG) -> Artifact:
    inputs = {"etl": etl.content_hash, "retrieval": retrieval.content_hash}
    with writing(folder, "ranking", {}, 0, inputs) as writer:
        run(config, etl, retrieval, 0, writer)
    return open_artifact(folder, "ranking", inputs=[etl, retrieval])


def test_the_first_item_of_a_list_was_taken_and_proposed(lists, events, retrieval: Artifact):
    valid = events[events.split == VALID].reset_index(drop=True)
    proposals = pq.read_table(retrieval.file("proposals.parquet"))
    assert proposals["event"].to_pylist() == list(range(len(valid)))  # no sample of them
    proposed = np.stack(proposals["item_row"].to_numpy())
    reached = valid[(proposed == valid.item_row.to_numpy()[:, None]).any(1)]
    assert len(lists) and [row[0] for row in lists.item_row] == reached.item_row.tolist()
    assert lists.user_row.tolist() == reached.user_row.tolist()


def test_negatives_were_never_taken_by_the_user_and_stand_once(lists, events, etl: Artifact):
    known = events[events.timestamp < etl.metrics["test_from"]]
    taken = known.groupby("user_row").item_row.agg(set)
    for row in lists.itertuples():
        shown = np.array(row.item_row)[1:][np.array(row.is_shown)[1:] > 0]
        assert not set(shown) & taken[row.user_row]
        assert len(set(shown)) == len(shown)
    assert all(row[0] == 1 for row in lists.is_shown)


def test_negatives_were_proposed_at_the_same_moment(lists, events, retrieval: Artifact):
    proposals = pq.read_table(retrieval.file("proposals.parquet")).to_pandas()
    valid = events[events.split == VALID].reset_index(drop=True)
    keys = zip(valid.user_row, valid.item_row, proposals.moment, strict=True)
    proposed = dict(zip(keys, proposals.item_row.map(set), strict=True))
    for row in lists.itertuples():
        shown = np.array(row.item_row)[np.array(row.is_shown) > 0]
        assert set(shown) <= proposed[row.user_row, row.item_row[0], row.timestamp]


def test_features_are_as_of_the_moment(lists, events, etl: Artifact):
    scale = json.loads(etl.file("online.json").read_text())
    window = etl.manifest["config"]["popularity_window_days"]
    item_id = np.append(pq.read_table(etl.file("items.parquet"))["item_id"].to_numpy(), 0)
    for row in lists.iloc[:: max(len(lists) // 20, 1)].itertuples():
        before = events[events.timestamp < row.timestamp]
        log = EventLog(*(before[name].to_numpy() for name in ("user_row", "item_row", "timestamp")))
        items = np.array(row.item_row)
        state = log.item_state(items, np.full(len(items), row.timestamp), window)
        user = log.user_state(np.array([row.user_row]), np.array([row.timestamp]), len(row.history))
        for name, raw in (
            ("item_num_events", state.num_events),
            ("item_num_recent_events", state.num_recent_events),
            ("item_age_days", state.age_days),
        ):
            np.testing.assert_allclose(getattr(row, name), normalized_log(raw, *scale[name]), atol=1e-5)
        recency = normalized_log(user.recency_days, *scale["user_recency_days"])[0]
        assert row.user_recency_days == pytest.approx(recency, abs=1e-5)
        assert row.history.tolist() == item_id[user.history_QN[0]].tolist()


@pytest.fixture(scope="module")
def said(events, retrieval: Artifact) -> dict[tuple[int, int, int], dict[str, np.ndarray]]:
    """By user, item taken and moment: the proposal, with the vectors behind it."""
    valid = events[events.split == VALID].reset_index(drop=True)
    proposals = pq.read_table(retrieval.file("proposals.parquet")).to_pandas()
    found = {}
    for row in proposals.itertuples():
        event = valid.iloc[row.event]
        found[int(event.user_row), int(event.item_row), row.moment] = row._asdict()
    return found


def test_the_scores_are_those_with_which_the_items_were_proposed(lists, said, retrieval: Artifact):
    vectors = np.stack(pq.read_table(retrieval.file("proposing_vectors.parquet"))["vector"].to_numpy())
    names = source_names(retrieval)
    not_proposed = 0
    for row in lists.head(40).itertuples():
        proposal = said[row.user_row, row.item_row[0], row.timestamp]
        expected = vectors[np.array(row.item_row)] @ proposal["query_vector"]
        np.testing.assert_allclose(row.two_tower_score, expected, rtol=1e-4, atol=1e-4)
        ranks = proposal["sources"].reshape(-1, len(names))
        place_of = {item: place for place, item in enumerate(proposal["item_row"].tolist())}
        for k, item in enumerate(row.item_row.tolist()):
            place = place_of.get(item)
            not_proposed += place is None
            merged = 0 if place is None else proposal["merged_score"][place]
            assert row.retrieval_score[k] == pytest.approx(merged, rel=1e-6)
            for source, name in enumerate(names):
                value = 0 if place is None else ranks[place, source]
                assert getattr(row, f"source_{name}")[k] == pytest.approx(value, rel=1e-6)
    assert not_proposed  # items the user had, drawn at random: nobody proposed them


def test_what_is_learned_from_was_proposed_by_somebody(lists, retrieval: Artifact):
    names = source_names(retrieval)
    for row in lists.itertuples():
        ranks = np.stack([getattr(row, f"source_{name}") for name in names])
        shown = np.array(row.is_shown) > 0
        assert (ranks[:, shown] > 0).any(0).all() and ranks.min() >= 0 and ranks.max() <= 1


def test_every_user_weighs_the_same(lists):
    by_user = lists.groupby("user_row").weight.sum()
    assert by_user.to_numpy() == pytest.approx(by_user.iloc[0], rel=1e-5)
    assert lists.weight.mean() == pytest.approx(1, rel=1e-5)


def test_equal_inputs_and_seed_give_an_equal_artifact(etl, retrieval, tmp_path: Path):
    one, two = ranked(etl, retrieval, tmp_path / "one"), ranked(etl, retrieval, tmp_path / "two")
    assert one.content_hash == two.content_hash


def test_held_out_users_are_not_learned_from(etl, retrieval, tmp_path: Path):
    artifact = ranked(etl, retrieval, tmp_path / "ranking", replace(CONFIG, held_out_share=0.5))
    parts = {name: artifact.file(f"examples/{name}.parquet") for name in ("fitted", "held_out", "all")}
    users = {name: set(pq.read_table(path)["user_row"].to_pylist()) for name, path in parts.items()}
    assert users["fitted"] and users["held_out"] and not users["fitted"] & users["held_out"]
    assert users["fitted"] | users["held_out"] == users["all"]


def test_without_anybody_held_out_the_order_of_retrieval_is_kept(etl, retrieval, tmp_path: Path):
    artifact = ranked(etl, retrieval, tmp_path / "ranking", replace(CONFIG, held_out_share=1e-9))
    assert artifact.metrics["best_epoch"] == 0
    assert artifact.metrics["held_out"] is None


def test_it_learns_a_rule_that_the_scores_do_not_show(etl: Artifact, retrieval: Artifact, lists, tmp_path: Path):
    """Of each list, the item that has been on sale the longest now counts as taken."""
    path = tmp_path / "all.parquet"
    table = write_examples(NegativesConfig(num_negatives=6), etl, retrieval, 0, path)
    age = np.stack(table["item_age_days"].to_numpy())
    shown = np.stack(table["is_shown"].to_numpy())
    best = np.where(shown > 0, age, -np.inf).argmax(1)
    every = np.arange(len(table))
    for name in [name for name in table.column_names if is_per_candidate(name) or name == "is_shown"]:
        values = np.stack(table[name].to_numpy())
        values[every, best], values[:, 0] = values[:, 0].copy(), values[every, best].copy()
        column = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
        table = table.set_column(table.column_names.index(name), name, column)
    pq.write_table(table, path)
    tables = FeatureTables(etl)
    swapped = Batches([path], tables, 32, 0)
    config = replace(CONFIG, learning_rate=1e-2, averaging=0.9)
    _, curve = train(config, tables, source_names(retrieval), swapped, 0, num_epochs=20, held_out=swapped)
    assert curve[0]["mrr"] < 0.6 and curve[-1]["mrr"] > 0.85
