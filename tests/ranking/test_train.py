"""The ranking stage: its examples, what it learns, and that it does so again."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

import ranking.train as stage
from ensemble.catalogue import array_of
from features.artifact import Artifact, open_artifact, writing
from features.batches import Batches, FeatureTables
from features.history import EventLog
from features.list_column import list_column
from features.log_scale import normalized_log
from ranking.config import DlrmConfig, NegativesConfig, NetworkConfig, RankingConfig
from ranking.examples import ExamplesError, source_names, write_examples
from ranking.losses import LOSSES
from ranking.pair_features import NUM_WINDOWS, attribute_names
from ranking.taste import NO_ITEM, affinities, attributes_at, in_demand, relative_numbers
from ranking.train import SURE, run, train, trusted_share
from retrieval.popularity import PopularityTimeline

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
    return write_examples(NegativesConfig(), etl, retrieval, 0, path).to_pandas()


@pytest.fixture(scope="module")
def proposals(retrieval: Artifact) -> pd.DataFrame:
    return pq.read_table(retrieval.file("proposals.parquet")).to_pandas()


def ranked(etl: Artifact, retrieval: Artifact, folder: Path, config: RankingConfig = CONFIG) -> Artifact:
    inputs = {"etl": etl.content_hash, "retrieval": retrieval.content_hash}
    with writing(folder, "ranking", {}, 0, inputs) as writer:
        run(config, etl, retrieval, 0, writer)
    return open_artifact(folder, "ranking", inputs=[etl, retrieval])


def test_what_was_taken_is_what_the_user_took_within_the_period(lists, proposals, events):
    periods = proposals.groupby("origin").until.first()
    for row in lists.itertuples():
        within = events[(events.timestamp >= row.timestamp) & (events.timestamp < periods[row.origin])]
        items = set(within[within.user_row == row.user_row].item_row)
        expected = [item in items and shown > 0 for item, shown in zip(row.item_row, row.is_shown, strict=True)]
        assert row.is_taken.astype(bool).tolist() == expected and any(expected)
        assert row.num_taken == len(items)


def test_a_list_is_what_was_proposed_and_lists_without_a_taken_item_are_left_out(lists, proposals, events):
    shown = {}
    for row in proposals.itertuples():
        items = [item for item in row.item_row if item >= 0]
        within = events[(events.timestamp >= row.moment) & (events.timestamp < row.until)]
        if set(items) & set(within[within.user_row == row.user_row].item_row):
            shown[row.user_row, row.moment] = items
    assert 0 < len(lists) < len(proposals) and lists.origin.nunique() == 2
    assert {(row.user_row, row.timestamp) for row in lists.itertuples()} == set(shown)
    for row in lists.itertuples():
        assert row.item_row[row.is_shown > 0].tolist() == shown[row.user_row, row.timestamp]


def test_the_items_numbers_are_as_of_the_moment_relative_to_the_items_in_demand(lists, events, etl: Artifact):
    scale = json.loads(etl.file("online.json").read_text())
    window = etl.manifest["config"]["popularity_window_days"]
    every = np.arange(etl.metrics["num_items"])
    popularity = PopularityTimeline(etl)
    for moment, of_moment in lists.groupby("timestamp"):
        before = events[events.timestamp < moment]
        log = EventLog(*(before[name].to_numpy() for name in ("user_row", "item_row", "timestamp")))
        state = log.item_state(every, np.full(len(every), moment), window)
        raw = {
            "item_num_events": state.num_events,
            "item_num_recent_events": state.num_recent_events,
            "item_age_days": state.age_days,
        }
        number = {name: normalized_log(values, *scale[name]) for name, values in raw.items()}
        expected = relative_numbers(number, popularity.at(moment).numpy()[:, :NUM_WINDOWS])
        for row in of_moment.itertuples():
            for name, values in expected.items():
                np.testing.assert_allclose(getattr(row, name), values[row.item_row], atol=1e-5, err_msg=name)


def test_tastes_are_those_of_the_history_before_the_moment(lists, events, etl: Artifact):
    items = pq.read_table(etl.file("items.parquet"))
    attribute = {name: array_of(items[name]) for name in attribute_names(FeatureTables(etl).schema)}
    popularity = PopularityTimeline(etl)
    length, had = etl.manifest["config"]["history_length"], 0
    for row in lists.iloc[:: max(len(lists) // 20, 1)].itertuples():
        before = events[(events.timestamp < row.timestamp) & (events.user_row == row.user_row)]
        past = before.item_row.to_numpy()[::-1][:length]
        history = np.full((1, length), NO_ITEM)
        history[0, : len(past)] = past
        had += len(past)
        demanded = in_demand(popularity.at(row.timestamp).numpy())
        for name, values in affinities(row.item_row[None], history, attributes_at(attribute, demanded)).items():
            np.testing.assert_allclose(getattr(row, name), values[0], atol=1e-6, err_msg=name)
    assert had


def test_what_retrieval_said_is_carried_to_the_list(lists, proposals, retrieval: Artifact, etl: Artifact):
    vectors = pq.read_table(retrieval.file("proposing_vectors.parquet"))["vector"].to_numpy()
    vectors = np.stack(vectors).reshape(2, etl.metrics["num_items"], -1)
    names = source_names(retrieval)
    by_key = {(row.user_row, row.moment): row for row in proposals.itertuples()}
    for row in lists.head(40).itertuples():
        proposal = by_key[row.user_row, row.timestamp]
        np.testing.assert_array_equal(row.retrieval_score, proposal.merged_score)
        shown = row.is_shown > 0
        expected = vectors[row.origin][row.item_row] @ proposal.query_vector
        np.testing.assert_allclose(row.two_tower_score[shown], expected[shown], rtol=1e-4, atol=1e-4)
        for source, name in enumerate(names):
            said = proposal.sources.reshape(-1, len(names))[:, source]
            np.testing.assert_array_equal(getattr(row, f"source_{name}"), said)


def test_a_sample_of_the_lists_follows_the_seed(etl, retrieval, lists, tmp_path: Path):
    def users(seed: int) -> list[int]:
        return write_examples(NegativesConfig(max_lists=10), etl, retrieval, seed, tmp_path / "some.parquet")[
            "user_row"
        ].to_pylist()

    assert len(lists) > 10 == len(users(0)) and users(0) == users(0) != users(1)


def test_proposals_of_another_form_are_refused_by_name(etl, retrieval, tmp_path: Path):
    def altered(change) -> Artifact:
        folder = tmp_path / "retrieval"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(retrieval.path, folder)
        table = pq.read_table(folder / "proposals.parquet")
        pq.write_table(change(table), folder / "proposals.parquet")
        return replace(retrieval, path=folder)

    with pytest.raises(ExamplesError, match=r"lacks until: .*run `retrieval` again"):
        write_examples(NegativesConfig(), etl, altered(lambda table: table.drop_columns(["until"])), 0, tmp_path / "x")

    def fewer_sources(table: pa.Table) -> pa.Table:
        column = list_column(np.stack(table["sources"].to_numpy())[:, :-1])
        return table.set_column(table.column_names.index("sources"), "sources", column)

    with pytest.raises(ExamplesError, match="does not belong to"):
        write_examples(NegativesConfig(), etl, altered(fewer_sources), 0, tmp_path / "x")


def test_equal_inputs_and_seed_give_an_equal_artifact(etl, retrieval, tmp_path: Path):
    one, two = ranked(etl, retrieval, tmp_path / "one"), ranked(etl, retrieval, tmp_path / "two")
    assert one.content_hash == two.content_hash


def no_lists(retrieval: Artifact, folder: Path) -> Artifact:
    shutil.copytree(retrieval.path, folder)
    table = pq.read_table(folder / "proposals.parquet")
    pq.write_table(table.slice(0, 0), folder / "proposals.parquet")
    return replace(retrieval, path=folder)


def test_without_any_list_the_order_of_retrieval_is_kept(etl, retrieval, tmp_path: Path):
    artifact = ranked(etl, no_lists(retrieval, tmp_path / "retrieval"), tmp_path / "ranking")
    assert artifact.metrics["num_lists"] == 0 and artifact.metrics["trusted_share"] == 0
    assert artifact.metrics["held_out"] is None
    weights = load_file(artifact.file("model.safetensors"))
    assert not weights["output.weight"].any() and not weights["output.bias"].any()


def test_every_user_is_held_out_once_and_never_learned_from_then(etl, retrieval, tmp_path: Path, monkeypatch):
    seen: list[tuple[set[int], set[int]]] = []
    original = stage._trained

    def spy(config, tables, sources, batches, seed, num_epochs, held_out):
        if held_out:
            seen.append(tuple(set(one.column("user_row").tolist()) for one in (batches, held_out)))
        return original(config, tables, sources, batches, seed, num_epochs, held_out)

    monkeypatch.setattr(stage, "_trained", spy)
    artifact = ranked(etl, retrieval, tmp_path / "ranking", replace(CONFIG, held_out_share=0.34, max_epochs=1))
    users = set(pq.read_table(artifact.file("examples/all.parquet"))["user_row"].to_pylist())
    assert len(seen) == 3
    assert all(not fitted & held_out and fitted | held_out == users for fitted, held_out in seen)
    assert sum(len(held_out) for _, held_out in seen) == len(users)


def test_trust_is_what_the_gain_leaves_of_its_error():
    gain = np.array([0.3, 0.1, 0.2, 0.0, 0.4])
    t = gain.mean() / (gain.std(ddof=1) / 5**0.5)
    assert trusted_share(gain, np.arange(5)) == pytest.approx(1 - (SURE / t) ** 2)
    twice = trusted_share(np.repeat(gain, 2), np.repeat(np.arange(5), 2))
    assert twice == pytest.approx(trusted_share(gain, np.arange(5)))  # a user's lists are no new evidence
    assert trusted_share(-gain, np.arange(5)) == 0
    assert trusted_share(np.array([0.5, -0.5, 0.1, -0.05]), np.arange(4)) == 0  # smaller than its error
    assert trusted_share(np.array([0.5]), np.arange(1)) == 0


def test_what_cannot_be_learned_leaves_the_order_of_retrieval(etl, retrieval, lists, tmp_path: Path, monkeypatch):
    """Taken items drawn at random: nothing that is learned holds for others."""

    def drawn(config, etl, retrieval, seed, path):
        table = write_examples(config, etl, retrieval, seed, path)
        taken, shown = (np.stack(table[name].to_numpy()) for name in ("is_taken", "is_shown"))
        key = np.where(shown > 0, np.random.default_rng(1).random(taken.shape), -1)
        order = (-key).argsort(1).argsort(1)
        made = (order < taken.sum(1)[:, None]).astype(np.float32)
        table = table.set_column(table.column_names.index("is_taken"), "is_taken", list_column(made))
        pq.write_table(table, path)
        return table

    monkeypatch.setattr(stage, "write_examples", drawn)
    artifact = ranked(etl, retrieval, tmp_path / "ranking", replace(CONFIG, max_epochs=3))
    assert artifact.metrics["trusted_share"] == 0


@pytest.mark.parametrize("loss", LOSSES)
def test_it_learns_a_rule_that_the_scores_do_not_show(etl, retrieval, lists, tmp_path: Path, loss):
    """Of each list, the three items longest on sale count as taken."""
    path = tmp_path / "all.parquet"
    table = write_examples(NegativesConfig(), etl, retrieval, 0, path)
    age, shown = (np.stack(table[name].to_numpy()) for name in ("item_relative_age_days", "is_shown"))
    place = np.where(shown > 0, -age, np.inf).argsort(1, kind="stable").argsort(1, kind="stable")
    column = list_column((place < 3).astype(np.float32))
    table = table.set_column(table.column_names.index("is_taken"), "is_taken", column)
    table = table.set_column(table.column_names.index("num_taken"), "num_taken", pa.array(np.full(len(table), 3)))
    pq.write_table(table, path)
    tables = FeatureTables(etl)
    made = Batches([path], tables, 16, 0)
    config = replace(CONFIG, loss=loss, learning_rate=1e-2, averaging=0.9)
    _, curve = train(config, tables, source_names(retrieval), made, 0, num_epochs=25, held_out=made)
    assert curve[0]["ndcg@10"] < 0.5 and curve[-1]["ndcg@10"] > 0.75


@pytest.mark.parametrize("model", ["dlrm", "dcn_v2", "mlp", "fm"])
def test_every_network_ranks_lists(etl, retrieval, tmp_path: Path, model):
    network = NetworkConfig(model=model, embedding_dim=4)
    artifact = ranked(etl, retrieval, tmp_path / "ranking", replace(CONFIG, network=network, max_epochs=1))
    assert np.isfinite(artifact.metrics["held_out"]["loss"])
