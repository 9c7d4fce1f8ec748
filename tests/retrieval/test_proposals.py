"""What is written for the ranker, held against the vectors, the log and the merge beside it."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from features.artifact import Artifact, open_artifact, writing
from features.batches import FeatureTables
from features.list_column import matrix_of
from features.split import VALID
from retrieval.candidates import load_merge, source_names
from retrieval.config import IndexConfig, RetrievalConfig, SourcesConfig, TwoTowerConfig
from retrieval.fit_sources import past_of, stage_of
from retrieval.index import build
from retrieval.origins import Origin
from retrieval.popularity import PopularityTimeline
from retrieval.proposals import write_proposals
from retrieval.sources import Covisitation
from retrieval.two_tower import TwoTower, item_vectors
from retrieval.validation import UnseenIds

NO_ITEM = -1


class Written:
    """The proposals of a retrieval artifact as arrays."""

    def __init__(self, retrieval: Artifact) -> None:
        table = pq.read_table(retrieval.file("proposals.parquet"))
        self.origin, self.user_row = table["origin"].to_numpy(), table["user_row"].to_numpy()
        self.moment, self.until = table["moment"].to_numpy(), table["until"].to_numpy()
        self.row_BK, self.score_BK = matrix_of(table["item_row"]), matrix_of(table["merged_score"])
        self.query_BE = matrix_of(table["query_vector"])
        vectors = pq.read_table(retrieval.file("proposing_vectors.parquet"))
        self.num_origins = self.origin.max() + 1
        self.item_OIE, self.popularity_OIP = (
            np.stack(np.split(matrix_of(vectors[name]), self.num_origins)) for name in ("vector", "popularity")
        )
        self.names = source_names(retrieval.file("sources/merge.json").parent)
        self.source_BKS = matrix_of(table["sources"]).reshape(*self.row_BK.shape, len(self.names))
        self.merge = load_merge(retrieval.file("sources/merge.json").parent)


@pytest.fixture(scope="module")
def written(opened) -> Written:
    return Written(opened("retrieval"))


@pytest.fixture(scope="module")
def events(opened) -> pd.DataFrame:
    return pq.read_table(opened("etl").file("events.parquet")).to_pandas()


@pytest.fixture(scope="module")
def forbidden(events: pd.DataFrame, written: Written) -> list[set[int]]:
    """What the user of each row had before its moment."""
    return [
        set(events[(events.user_row == user) & (events.timestamp < moment)].item_row)
        for user, moment in zip(written.user_row, written.moment, strict=True)
    ]


def test_whoever_came_back_after_an_origin_has_a_row_of_it(written: Written, events, opened):
    etl = opened("etl").metrics
    period = etl["test_from"] - etl["valid_from"]
    assert written.num_origins == 2
    for origin in range(written.num_origins):
        rows = written.origin == origin
        begin, end = etl["valid_from"] - origin * period, etl["test_from"] - origin * period
        assert set(written.moment[rows]) == {begin} and set(written.until[rows]) == {end}
        came = events[(events.timestamp >= begin) & (events.timestamp < end)].user_row
        assert written.user_row[rows].tolist() == sorted(set(came))


def test_the_popularity_of_an_origin_is_that_of_its_moment(written: Written, opened):
    timeline = PopularityTimeline(opened("etl"))
    for origin, moment in enumerate(sorted(set(written.moment), reverse=True)):
        expected = timeline.at(moment).numpy()
        np.testing.assert_array_equal(written.popularity_OIP[origin], expected)
        np.testing.assert_array_equal(written.item_OIE[origin][:, -expected.shape[1] :], expected)


def test_what_the_user_had_before_the_moment_is_not_proposed(written: Written, forbidden):
    assert any(forbidden)
    for row, had in zip(written.row_BK.tolist(), forbidden, strict=True):
        items = [item for item in row if item != NO_ITEM]
        assert items and not set(items) & had and len(set(items)) == len(items)


def test_the_two_tower_ranks_are_those_of_the_vectors_beside_them(written: Written, forbidden):
    place = written.names.index("two_tower")
    vectors_BIE = written.item_OIE[written.origin].astype(np.float64)
    score_BI = np.einsum("be,bie->bi", written.query_BE.astype(np.float64), vectors_BIE)
    for row, said, score_I, had in zip(
        written.row_BK, written.source_BKS[..., place], score_BI, forbidden, strict=True
    ):
        allowed = [item for item in range(len(score_I)) if item not in had]
        ranked = sorted(allowed, key=lambda item, s=score_I: -s[item])
        rank = {item: 60 / value - 60 for item, value in zip(row.tolist(), said.tolist(), strict=True) if value}
        assert set(rank) == set(ranked)  # its quota is larger than the catalogue
        found = sorted(rank, key=lambda item, r=rank: r[item])
        np.testing.assert_allclose(score_I[found], score_I[ranked], atol=1e-4)
        np.testing.assert_allclose(sorted(rank.values()), np.arange(len(rank)), atol=1e-3)


def test_new_items_are_those_that_nobody_had_before_the_moment(written: Written, events):
    said_BK = written.source_BKS[..., written.names.index("new_items")]
    for origin, moment in enumerate(sorted(set(written.moment), reverse=True)):
        rows = written.origin == origin
        found = np.unique(written.row_BK[rows][said_BK[rows] > 0])
        assert len(found) and not np.isin(found, events[events.timestamp < moment].item_row).any()


def test_the_merged_score_is_made_of_what_the_sources_said(written: Written):
    expected = written.source_BKS @ np.array(written.merge.weights)
    np.testing.assert_allclose(written.score_BK, expected, rtol=1e-4, atol=1e-6)
    assert ((written.row_BK == NO_ITEM) == ~written.source_BKS.any(2)).all()


@pytest.fixture(scope="module")
def write(opened, tmp_path_factory):
    """A function that writes the proposals of an untrained model and co-visitation, with a config."""
    etl = opened("etl")
    tables, hidden = FeatureTables(etl), UnseenIds(etl)
    torch.manual_seed(0)
    model = TwoTower(tables.schema, TwoTowerConfig(embedding_dim=8, hidden_units=(16,)))
    model.queries(tables.users), model.items(tables.items)
    model.eval()
    popularity = PopularityTimeline(etl).at(etl.metrics["valid_from"])
    item_IE = item_vectors(model, hidden(tables.items), popularity)
    past = past_of(etl, tables, SourcesConfig()).before(etl.metrics["valid_from"])
    index = build(item_IE, IndexConfig(kind="flat"))
    stage = stage_of(SourcesConfig(), index, past, [Covisitation(30.0).fit(past)])

    def written_with(config: RetrievalConfig, seed: int = 0) -> Artifact:
        folder = tmp_path_factory.mktemp("proposals") / "retrieval"
        with writing(folder, "retrieval", {}, seed, {}) as writer:
            origin = Origin(etl.metrics["valid_from"], etl.metrics["test_from"], model, stage, item_IE, hidden)
            write_proposals([origin], tables, etl, config, seed, writer)
        return open_artifact(folder, "retrieval")

    return written_with


def table_of(artifact: Artifact) -> pd.DataFrame:
    return pq.read_table(artifact.file("proposals.parquet")).to_pandas()


def test_a_seeded_sample_stands_for_many_users(write, events):
    config = RetrievalConfig(max_proposed_users=20, num_proposals=6)
    artifact = write(config)
    sample, whole = table_of(artifact), table_of(write(RetrievalConfig(num_proposals=6)))
    assert len(sample) == 20 and len(whole) == events[events.split == VALID].user_row.nunique()
    assert artifact.manifest["parts"]["proposals.parquet"]["rows"] == 20
    same = whole[whole.user_row.isin(sample.user_row)]
    assert same.user_row.tolist() == sample.user_row.tolist() == sorted(set(sample.user_row))
    np.testing.assert_array_equal(np.stack(sample.item_row), np.stack(same.item_row))
    np.testing.assert_array_equal(np.stack(sample.query_vector), np.stack(same.query_vector))
    assert table_of(write(config)).user_row.tolist() == sample.user_row.tolist()
    assert table_of(write(config, seed=1)).user_row.tolist() != sample.user_row.tolist()
