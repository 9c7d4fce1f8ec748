"""Scores of named pairs in a file, against what the served pipeline says of the same pairs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ensemble.operators.score_candidates import ScoreCandidates
from ensemble.pair_scorer import PairScorer, PartDownError
from ensemble.pipeline import Pipeline
from ensemble.request import Request
from pipelines import rank
from pipelines.__main__ import main
from pipelines.config import load_saved_config

STRANGER = "a-stranger"


@pytest.fixture(scope="module")
def pipeline(small_run: Path) -> Pipeline:
    return Pipeline.load(small_run / "export" / "repository" / "cascade" / "1")


@pytest.fixture(scope="module")
def users(small_run: Path) -> list[str]:
    return pq.read_table(small_run / "etl" / "users.parquet", columns=["raw_id"])["raw_id"].to_pylist()


def served(pipeline: Pipeline, users: list[str], k: int = 20, timestamp: int | None = None) -> dict[str, dict]:
    """User -> item -> score and source of all candidates, as replies have them."""
    reply = pipeline.recommend(Request.of(users, k, timestamp=timestamp))
    rows = zip(users, reply.item_ids, reply.scores, reply.source, strict=True)
    return {
        user: {item: (score, source) for item, score in zip(items, scores, strict=True) if item}
        for user, items, scores, source in rows
    }


def written(path: Path, said: dict[str, dict], **columns: list) -> Path:
    """The pairs in a mixed order."""
    pairs = [(user, item) for user, of_user in said.items() for item in of_user]
    order = np.random.default_rng(0).permutation(len(pairs))
    table = pa.table({"user_id": [pairs[n][0] for n in order], "item_id": [pairs[n][1] for n in order], **columns})
    pq.write_table(table, path)
    return path


def ranked(small_run: Path, pairs: Path, out: Path) -> pa.Table:
    assert main(["rank", "--run", str(small_run), "--in", str(pairs), "--out", str(out)]) == 0
    return pq.read_table(out)


def test_every_candidate_of_a_reply_gets_the_score_and_the_place_that_it_has_there(
    small_run, pipeline, users, tmp_path
):
    said = served(pipeline, [*users, STRANGER])
    found = ranked(small_run, written(tmp_path / "in.parquet", said), tmp_path / "out.parquet")
    assert found.column_names == ["user_id", "item_id", "score", "rank", "source"]
    assert len(found) == sum(map(len, said.values())) > 2_000
    of_user: dict[str, dict] = {}
    for row in found.to_pylist():
        of_user.setdefault(row["user_id"], {})[row["item_id"]] = (np.float32(row["score"]), row["source"])
    assert {user: list(items) for user, items in of_user.items()} == {user: list(items) for user, items in said.items()}
    assert of_user == said  # bit for bit
    assert {source for _, source in of_user[STRANGER].values()} == {"fallback"}


def test_rules_over_items_count_as_in_a_reply(small_run, users, run_served_as, tmp_path):
    run = run_served_as(filters={"rules": {"cheap": "price <= 30"}})
    config = load_saved_config(run / "config.json").serving
    said = served(Pipeline.load(run / "export/repository/cascade/1", config), users)
    found = ranked(run, written(tmp_path / "in.parquet", said), tmp_path / "out.parquet")
    scores = {(row["user_id"], row["item_id"]): np.float32(row["score"]) for row in found.to_pylist()}
    assert scores == {(user, item): score for user, of_user in said.items() for item, (score, _) in of_user.items()}
    unruled = ranked(small_run, tmp_path / "in.parquet", tmp_path / "unruled.parquet")
    assert not found["score"].equals(unruled["score"]), "the sources proposed other items"


def test_a_moment_of_its_own_gives_what_a_request_of_that_moment_gives(
    small_run, pipeline, users, tmp_path, monkeypatch
):
    moments, run = set(), ScoreCandidates.run
    monkeypatch.setattr(
        ScoreCandidates, "run", lambda self, columns: moments.update(columns["timestamp"]) or run(self, columns)
    )
    users, late = users[:20], pipeline.as_of + 9 * 86_400 + 7 * 3_600
    now, then = served(pipeline, users), served(pipeline, users, timestamp=late)
    both = {user: now[user] | then[user] for user in users}
    one = pq.read_table(written(tmp_path / "in.parquet", both))
    times = [pa.array([moment] * len(one)) for moment in (late, pipeline.as_of)]
    pq.write_table(pa.concat_tables([one.append_column("timestamp", time) for time in times]), tmp_path / "in.parquet")
    moments.clear()
    found = ranked(small_run, tmp_path / "in.parquet", tmp_path / "out.parquet").to_pylist()
    assert len(found) == 2 * len(one)
    assert {pipeline.as_of, late} <= moments
    scores = {(row["user_id"], row["item_id"], row["timestamp"]): np.float32(row["score"]) for row in found}
    for moment, said in ((pipeline.as_of, now), (late, then)):
        for user in users:
            for item, (score, _) in said[user].items():
                assert scores[user, item, moment] == score
    ranks = [row["rank"] for row in found if row["user_id"] == users[3] and row["timestamp"] == late]
    assert ranks == list(range(1, len(both[users[3]]) + 1))


def test_what_no_source_proposes_is_scored_as_an_item_that_a_reply_is_filled_up_with(
    small_run, pipeline, users, tmp_path
):
    said = served(pipeline, users[:5], k=70)  # 20 candidates; the rest are popular items
    found = ranked(small_run, written(tmp_path / "in.parquet", said), tmp_path / "out.parquet")
    filled = pipeline.columns(Request.of(users[:5], 70))
    assert (filled["candidate_sources"].sum(2) == 0).any()
    for row in found.to_pylist():
        place = filled["item_ids"][users.index(row["user_id"])].tolist().index(row["item_id"])
        assert np.float32(row["score"]) == filled["scores"][users.index(row["user_id"]), place]


def test_parts_and_calls_of_any_size_give_the_same_rows(small_run, pipeline, users, tmp_path, monkeypatch):
    pairs = written(tmp_path / "in.parquet", served(pipeline, [*users, STRANGER]))
    ranked(small_run, pairs, tmp_path / "one.parquet")
    monkeypatch.setattr(rank, "ROWS_PER_PART", 300)
    monkeypatch.setattr(rank, "PAIRS_PER_CALL", 7)
    ranked(small_run, pairs, tmp_path / "many.parquet")
    by = [("user_id", "ascending"), ("rank", "ascending")]
    one, many = (pq.read_table(tmp_path / f"{name}.parquet").sort_by(by) for name in ("one", "many"))
    assert one.equals(many)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_an_unknown_item_has_no_score_and_is_counted(small_run, users, tmp_path, capsys):
    columns = {"user_id": [users[0], users[0], STRANGER], "item_id": ["nowhere", None, "nowhere"]}
    item = pq.read_table(small_run / "etl" / "items.parquet", columns=["raw_id"])["raw_id"][0].as_py()
    columns["item_id"][1] = item
    pq.write_table(pa.table(columns), tmp_path / "in.parquet")
    found = ranked(small_run, tmp_path / "in.parquet", tmp_path / "out.parquet").to_pylist()
    assert "2 rows name an item that the catalogue does not have" in capsys.readouterr().out
    assert [(row["item_id"], row["rank"]) for row in found if row["user_id"] == users[0]] == [
        (item, 1),
        ("nowhere", None),
    ]
    assert [row["score"] for row in found if row["item_id"] == "nowhere"] == [None, None]


def test_ids_come_out_in_the_type_in_which_they_came(small_run, tmp_path):
    pairs = pa.table({"user_id": pa.array([7, 7]), "item_id": pa.array(["x", "y"]).dictionary_encode()})
    pq.write_table(pairs, tmp_path / "in.parquet")
    found = ranked(small_run, tmp_path / "in.parquet", tmp_path / "out.parquet")
    assert (found.schema.field("user_id").type, found.schema.field("item_id").type) == (pa.int64(), pa.string())
    about = json.loads(pq.read_schema(tmp_path / "out.parquet").metadata[b"cascade"])
    assert about["export"] == json.loads((small_run / "export" / "manifest.json").read_text())["content_hash"]


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"user": ["a"], "item_id": ["b"]}, "no column user_id"),
        ({"user_id": [1.5], "item_id": ["b"]}, "user_id must be text or whole numbers, got double"),
        ({"user_id": ["a", None], "item_id": ["b", "c"]}, "user_id, row 1 .* got None"),
        ({"user_id": ["a", "a"], "item_id": ["", "c"]}, "item_id, row 0 .* got ''"),
        ({"user_id": ["a"], "item_id": ["b"], "timestamp": [1_700_000_000_000]}, "timestamp, row 0 .* Unix seconds"),
        ({"user_id": ["a"], "item_id": ["b"], "timestamp": ["now"]}, "timestamp must be whole numbers"),
    ],
)
def test_a_file_that_holds_no_pairs_is_refused_and_nothing_is_written(small_run, tmp_path, capsys, columns, told):
    pq.write_table(pa.table(columns), tmp_path / "in.parquet")
    words = [
        "rank",
        "--run",
        str(small_run),
        "--in",
        str(tmp_path / "in.parquet"),
        "--out",
        str(tmp_path / "o.parquet"),
    ]
    assert main(words) == 1
    error = capsys.readouterr().err
    assert re.search(told, error), error
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


def test_a_source_that_fails_writes_no_scores_of_other_features(pipeline, users, monkeypatch):
    scorer = PairScorer(pipeline)
    rows = np.zeros((1, 3), np.int64)
    assert np.isfinite(scorer.scores(np.array(users[:1], object), rows)[0]).all()
    stage = next(one for one in pipeline.operators if hasattr(one, "opened_stage")).opened_stage
    monkeypatch.setattr(type(stage.sources[-1]), "propose", lambda *_: 1 / 0)
    with pytest.raises(PartDownError):
        scorer.scores(np.array(users[:1], object), rows)
