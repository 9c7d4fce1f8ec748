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
        self.event, self.moment = table["event"].to_numpy(), table["moment"].to_numpy()
        self.row_BK, self.score_BK = matrix_of(table["item_row"]), matrix_of(table["merged_score"])
        self.query_BE = matrix_of(table["query_vector"])
        self.item_IE = matrix_of(pq.read_table(retrieval.file("proposing_vectors.parquet"))["vector"])
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
def valid(events: pd.DataFrame, written: Written) -> pd.DataFrame:
    """The interaction of each row."""
    return events[events.split == VALID].reset_index(drop=True).iloc[written.event]


@pytest.fixture(scope="module")
def forbidden(events: pd.DataFrame, valid: pd.DataFrame, written: Written) -> list[set[int]]:
    """What the user of each row had before its moment."""
    return [
        set(events[(events.user_row == user) & (events.timestamp < moment)].item_row)
        for user, moment in zip(valid.user_row, written.moment, strict=True)
    ]


def test_every_validation_interaction_has_a_row_foretold_from_before_it(written: Written, events, valid, opened):
    assert written.event.tolist() == list(range((events.split == VALID).sum()))
    period = opened("etl").metrics["test_from"] - opened("etl").metrics["valid_from"]
    age = valid.timestamp.to_numpy() - written.moment
    assert age.min() >= 0 and age.max() <= period + 1


def test_what_the_user_had_before_the_moment_is_not_proposed(written: Written, forbidden):
    assert any(forbidden)
    for row, had in zip(written.row_BK.tolist(), forbidden, strict=True):
        items = [item for item in row if item != NO_ITEM]
        assert items and not set(items) & had and len(set(items)) == len(items)


def test_the_two_tower_ranks_are_those_of_the_vectors_beside_them(written: Written, forbidden):
    place = written.names.index("two_tower")
    score_BI = written.query_BE.astype(np.float64) @ written.item_IE.T.astype(np.float64)
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


def test_new_items_are_those_that_nobody_had_before_the_validation_part(written: Written, events, opened):
    had = events[events.timestamp < opened("etl").metrics["valid_from"]].item_row
    said_BK = written.source_BKS[..., written.names.index("new_items")]
    found = np.unique(written.row_BK[said_BK > 0])
    assert len(found) and not np.isin(found, had).any()


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
            write_proposals(model, stage, item_IE, tables, etl, hidden, config, seed, writer)
        return open_artifact(folder, "retrieval")

    return written_with


def table_of(artifact: Artifact) -> pd.DataFrame:
    return pq.read_table(artifact.file("proposals.parquet")).to_pandas()


def test_a_seeded_sample_stands_for_a_large_validation_part(write, events):
    config = RetrievalConfig(max_proposed_interactions=20, num_proposals=6)
    artifact = write(config)
    sample, whole = table_of(artifact), table_of(write(RetrievalConfig(num_proposals=6)))
    assert len(sample) == 20 and len(whole) == (events.split == VALID).sum()
    assert artifact.manifest["parts"]["proposals.parquet"]["rows"] == 20
    assert (np.diff(sample.event) > 0).all()
    np.testing.assert_array_equal(sample.moment, whole.moment[sample.event])
    np.testing.assert_array_equal(np.stack(sample.item_row), np.stack(whole.item_row[sample.event]))
    np.testing.assert_array_equal(np.stack(sample.query_vector), np.stack(whole.query_vector[sample.event]))
    assert table_of(write(config)).event.tolist() == sample.event.tolist()
    assert table_of(write(config, seed=1)).event.tolist() != sample.event.tolist()
