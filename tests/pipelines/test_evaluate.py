"""The evaluation of a pipeline whose answers are known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from features.artifact import ArtifactError, writing
from pipelines import evaluation_world as world_module
from pipelines.evaluate import EvaluationConfig, evaluate
from pipelines.evaluation_table import print_report

NUM_USERS, NUM_ITEMS, NUM_NEW = 30, 40, 4
SETTINGS = {"slate_k": 5, "candidate_k": 15, "ks": (10,), "num_bootstrap": 50, "batch_users": 7}


@dataclass
class Reply:
    candidate_ids: np.ndarray
    ranked_ids: np.ndarray
    item_ids: np.ndarray
    source: np.ndarray


@dataclass
class Log:
    """Interactions as (user_row, item_row, second, split); the last two users and NUM_NEW items come only in test."""

    rows: np.ndarray

    def had(self, user: int, before_test: bool = True) -> list[int]:
        mine = self.rows[(self.rows[:, 0] == user) & ((self.rows[:, 3] < 2) == before_test)]
        return list(dict.fromkeys(mine[:, 1].tolist()))


@pytest.fixture
def log() -> Log:
    rng = np.random.default_rng(0)
    rows = []
    for split, (start, num) in enumerate(((0, 500), (1000, 100), (2000, 100))):
        last_user, last_item = (NUM_USERS, NUM_ITEMS) if split == 2 else (NUM_USERS - 2, NUM_ITEMS - NUM_NEW)
        user = rng.integers(0, last_user, num)
        item = 2 * rng.integers(0, last_item // 2, num) + user % 2
        rows += np.stack([user, item, np.sort(rng.integers(start, start + 900, num)), np.full(num, split)], 1).tolist()
    return Log(np.array([*rows, [NUM_USERS - 1, NUM_ITEMS - 1, 2950, 2]]))


@pytest.fixture
def etl_dir(tmp_path: Path, log: Log) -> Path:
    path = tmp_path / "run" / "etl"
    with writing(path, "etl", {}, 0, {}) as artifact:
        user_ids = [f"user {row}" for row in range(NUM_USERS)]
        pq.write_table(pa.table({"raw_id": user_ids}), artifact.path / "users.parquet")
        pq.write_table(pa.table({"raw_id": ids(range(NUM_ITEMS))}), artifact.path / "items.parquet")
        (artifact.path / "raw").mkdir()
        parity = pa.table({"parity": [("even", "odd")[row % 2] for row in range(NUM_ITEMS)]})
        pq.write_table(parity, artifact.path / "raw" / "items.parquet")
        columns = {"categorical": ["parity"], "lists": [], "continuous": [], "texts": []}
        artifact.metrics["feature_columns"] = {"item": columns}
        user, item, second, split = log.rows.T
        events = {"user_row": user, "item_row": item, "timestamp": second, "split": split.astype(np.int8)}
        pq.write_table(pa.table(events), artifact.path / "events.parquet")
    return path


def ids(item_rows: Sequence[int]) -> list[str]:
    return [f"item {row:03}" for row in item_rows]


def reply(rows: list[list[str]], source: str = "personal") -> Reply:
    width = max(len(row) for row in rows)
    matrix = np.array([row + [""] * (width - len(row)) for row in rows], object)
    slates = matrix[:, : SETTINGS["slate_k"]]
    return Reply(
        matrix, matrix[:, ::-1] if not (matrix == "").any() else matrix, slates, np.array([source] * len(rows))
    )


def oracle(log: Log, drop_seen: bool):
    """Knows the future: each user's relevant items first, then others that the user has not had."""

    def recommend(users: list[str]) -> Reply:
        rows = []
        for name in users:
            user = int(name.split()[1])
            had = set(log.had(user)) if drop_seen else set()
            wanted = [item for item in log.had(user, before_test=False) if item not in had]
            rest = [item for item in range(NUM_ITEMS) if item not in had and item not in wanted]
            rows.append(ids((wanted + rest)[: SETTINGS["candidate_k"]]))
        return reply(rows)

    return recommend


@pytest.mark.parametrize("drop_seen", [True, False])
def test_a_pipeline_that_knows_the_future_scores_1_and_beats_every_baseline(etl_dir, log, drop_seen):
    out = etl_dir.parent
    report = evaluate(etl_dir, oracle(log, drop_seen), EvaluationConfig(**SETTINGS), drop_seen, out=out)
    stages, num_users = report["systems"]["cascade"], report["protocol"]["num_test_users"]
    assert stages["candidates"]["recall@15"]["mean"] == 1.0
    for name in ("ndcg@5", "mrr@5", "hit_rate@5"):
        assert stages["slate"][name] == pytest.approx({"mean": 1.0, "low": 1.0, "high": 1.0, "num_users": num_users})
    assert stages["ranked"]["ndcg@5"]["mean"] < 0.5, "the ranker of this pipeline turns the order round"
    assert "recall@15" not in stages["slate"] and "recall@10" in stages["ranked"]
    assert report["cohorts"]["cold_items"]["cascade"]["candidates recall@15"]["mean"] == 1.0
    assert report["cohorts"]["cold_items"]["popularity"]["candidates recall@15"]["mean"] == 0.0
    assert all(one["recall"]["cascade"]["mean"] == 1.0 for one in report["users_by_history"].values())
    assert sum(one["num_users"] for one in report["users_by_history"].values()) == num_users
    assert report["items_by_popularity"]["never seen"]["recall"]["cascade"]["mean"] == 1.0
    for name, difference in report["cascade_minus"].items():
        assert difference["slate ndcg@5"]["low"] > 0 or name == "unranked", name
        theirs = report["systems"][name]["slate"]["ndcg@5"]["mean"]
        assert difference["slate ndcg@5"]["mean"] == pytest.approx(1.0 - theirs)
    assert ("repeat_purchase" in report["systems"]) is not drop_seen
    assert json.loads((out / "evaluation.json").read_text()) == report


def test_the_ranker_is_measured_against_retrievals_order_of_the_same_candidates(etl_dir, log):
    """Retrieval is perfect here; a ranker that turns its order round loses what the mean of reversed slates says."""
    knowing = oracle(log, False)

    def recommend(users: list[str]):
        reply = knowing(users)
        return replace(reply, item_ids=reply.ranked_ids[:, : SETTINGS["slate_k"]])

    report = evaluate(etl_dir, recommend, EvaluationConfig(**SETTINGS), False, out=etl_dir.parent)
    assert report["systems"]["unranked"]["slate"]["ndcg@5"]["mean"] == 1.0
    ranked, ratio = report["systems"]["cascade"]["slate"]["ndcg@5"], report["ranked_over_unranked"]["ndcg@5"]
    assert ratio["mean"] == pytest.approx(ranked["mean"]) and ratio["high"] < 0.6
    assert (ratio["low"], ratio["high"]) == pytest.approx((ranked["low"], ranked["high"])), "over a constant 1"
    assert report["cascade_minus"]["unranked"]["slate ndcg@5"]["mean"] == pytest.approx(ranked["mean"] - 1)


def test_the_protocol_counts_what_was_measured(etl_dir, log):
    report = evaluate(etl_dir, oracle(log, False), EvaluationConfig(**SETTINGS), False, out=etl_dir.parent)
    protocol = report["protocol"]
    users = set(log.rows[log.rows[:, 3] == 2, 0])
    cold = {user for user in users if not log.had(user)}
    assert protocol["num_test_users"] == len(users) and protocol["num_cold_test_users"] == len(cold) > 0
    assert protocol["num_events"] == {"train": 500, "valid": 100, "test": 101}
    assert protocol["num_items"] == NUM_ITEMS and protocol["num_items_never_seen_before_test"] >= NUM_NEW
    assert report["cohorts"]["cold_users"]["cascade"]["slate ndcg@5"]["num_users"] == len(cold)
    assert report["served"]["sources"] == {"personal": len(users)}
    assert report["served"]["short_slates"] == 0 and report["served"]["seen_items_in_slates"] > 0


def test_empty_slots_and_fewer_candidates_are_measured_as_they_are(etl_dir, log):
    def recommend(users: list[str]) -> Reply:
        return reply([[*ids([int(name.split()[1])]), ""] for name in users], "fallback")

    report = evaluate(etl_dir, recommend, EvaluationConfig(**SETTINGS), False, out=etl_dir.parent)
    num_users = report["protocol"]["num_test_users"]
    assert report["served"]["short_slates"] == report["served"]["sources"]["fallback"] == num_users
    cascade = report["systems"]["cascade"]
    assert cascade["candidates"]["recall@15"]["mean"] == cascade["slate"]["recall@5"]["mean"] < 0.2
    assert cascade["slate"]["coverage@5"]["mean"] == pytest.approx(num_users / NUM_ITEMS)


def test_a_sample_of_users_is_asked_in_batches_and_is_the_same_again(etl_dir, log):
    asked: list[list[str]] = []

    def recommend(users: list[str]) -> Reply:
        asked.append(users)
        return oracle(log, False)(users)

    config = EvaluationConfig(**SETTINGS, max_users=10)
    reports = [evaluate(etl_dir, recommend, config, False, out=etl_dir.parent, seed=3) for _ in range(2)]
    assert [len(users) for users in asked] == [7, 3, 7, 3] and asked[:2] == asked[2:]
    assert reports[0] == reports[1] and reports[0]["protocol"]["num_test_users"] == 10


def test_baselines_are_fitted_once_for_an_etl_artifact(etl_dir, log, monkeypatch):
    first = evaluate(etl_dir, oracle(log, True), EvaluationConfig(**SETTINGS), True, out=etl_dir.parent)
    monkeypatch.setattr(world_module, "run_baselines", None)
    assert evaluate(etl_dir, oracle(log, True), EvaluationConfig(**SETTINGS), True, out=etl_dir.parent) == first


@pytest.mark.parametrize(
    ("row", "message"),
    [(["item 999"], "'item 999', which is not in the catalogue"), (["item 001", "item 001"], "repeats an item")],
)
def test_an_invented_or_repeated_item_is_an_error(etl_dir, row, message):
    with pytest.raises(ValueError, match=message):
        evaluate(
            etl_dir, lambda users: reply([row] * len(users)), EvaluationConfig(**SETTINGS), False, out=etl_dir.parent
        )


def test_a_reply_for_other_users_is_an_error(etl_dir):
    with pytest.raises(ValueError, match="asked for 7 users and gave candidates of 1"):
        evaluate(etl_dir, lambda users: reply([["item 001"]]), EvaluationConfig(**SETTINGS), False, out=etl_dir.parent)


def test_no_etl_artifact_is_an_error_that_names_the_stage_to_run(tmp_path):
    with pytest.raises(ArtifactError, match="run `etl` first"):
        evaluate(tmp_path, lambda users: reply([]), EvaluationConfig(), False, out=tmp_path)


def test_a_slate_longer_than_the_candidates_is_refused():
    with pytest.raises(ValueError, match=r"slate_k \(20\) must be at most candidate_k \(10\)"):
        EvaluationConfig(slate_k=20, candidate_k=10)


def test_the_table_has_a_row_for_every_stage_and_baseline(etl_dir, log):
    report = evaluate(etl_dir, oracle(log, True), EvaluationConfig(**SETTINGS), True, out=etl_dir.parent)
    text = StringIO()
    print_report(report, Console(file=text, width=300))
    for words in ("Cascade candidates", "Cascade ranked", "Cascade slate", "recent popularity", "covisitation", "ease"):
        assert words in text.getvalue()
    assert "repeat purchase left out: seen items are dropped" in text.getvalue()
    assert f"{report['protocol']['num_test_users']} test users" in text.getvalue()
    assert "by length of history" in text.getvalue() and "tenth 1" in text.getvalue()
