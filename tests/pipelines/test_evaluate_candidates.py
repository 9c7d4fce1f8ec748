"""The evaluation of a candidate stage whose answers are known, and the cohorts of both reports."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from features.artifact import writing
from pipelines import evaluation_world as world_module
from pipelines.candidates_table import print_candidates
from pipelines.cohorts import history_cohorts, popularity_tenths
from pipelines.evaluate import EvaluationError, evaluate
from pipelines.evaluate_candidates import evaluate_candidates
from pipelines.evaluation_config import EvaluationConfig
from retrieval.metrics import recall_at_k

NUM_USERS, NUM_ITEMS, NUM_COLD = 24, 60, 12
SETTINGS = {"slate_k": 3, "candidate_k": 6, "ks": (4,), "num_bootstrap": 60, "batch_users": 5}
CONFIG = EvaluationConfig(**SETTINGS)


def event_rows() -> np.ndarray:
    """(user, item, second, split): user u takes items of colour u % 3; the last NUM_COLD items come only in test."""
    rng = np.random.default_rng(1)
    rows = []
    for split, (start, num) in enumerate(((0, 400), (1000, 80), (2000, 80))):
        last_item = NUM_ITEMS if split == 2 else NUM_ITEMS - NUM_COLD
        user = rng.integers(0, NUM_USERS if split == 2 else NUM_USERS - 2, num)
        item = 3 * rng.integers(0, last_item // 3, num) + user % 3
        rows += np.stack([user, item, np.sort(rng.integers(start, start + 900, num)), np.full(num, split)], 1).tolist()
    return np.array([*rows, [NUM_USERS - 1, NUM_ITEMS - 1, 2950, 2], [0, NUM_ITEMS - 3, 2960, 2]])


@pytest.fixture(scope="module")
def etl_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for the file: the baselines that its first test fits are read by the others."""
    path = tmp_path_factory.mktemp("run") / "etl"
    with writing(path, "etl", {}, 0, {}) as artifact:
        pq.write_table(
            pa.table({"raw_id": [f"user {row}" for row in range(NUM_USERS)]}), artifact.path / "users.parquet"
        )
        pq.write_table(pa.table({"raw_id": ids(range(NUM_ITEMS))}), artifact.path / "items.parquet")
        user, item, second, split = event_rows().T
        events = {"user_row": user, "item_row": item, "timestamp": second, "split": split.astype(np.int8)}
        pq.write_table(pa.table(events), artifact.path / "events.parquet")
        (artifact.path / "raw").mkdir()
        colours = pa.table({"colour": [f"colour {row % 3}" for row in range(NUM_ITEMS)]})
        pq.write_table(colours, artifact.path / "raw" / "items.parquet")
        columns = {"categorical": ["colour"], "lists": [], "continuous": [], "texts": []}
        artifact.metrics["feature_columns"] = {"item": columns}
    return path


def ids(item_rows) -> list[str]:
    return [f"item {row:03}" for row in item_rows]


def relevant_of(user: int) -> list[int]:
    rows = event_rows()
    return sorted(set(rows[(rows[:, 0] == user) & (rows[:, 3] == 2), 1].tolist()))


def padded(lists: list[list[int]], width: int) -> np.ndarray:
    return np.array([(ids(one) + [""] * width)[:width] for one in lists], object)


def oracle(users: list[str]) -> dict[str, np.ndarray]:
    """Merged knows the future; one source knows one item of it, and one has something to say of few users only."""
    wanted = [relevant_of(int(name.split()[1])) for name in users]
    reply = {"merged": padded(wanted, 9), "two_tower": padded([one[:1] for one in wanted], 2)}
    return reply | ({"covisitation": padded(wanted, 1)} if "user 0" in users else {})


def test_a_candidate_stage_that_knows_the_future_is_measured_beside_every_baseline(etl_dir):
    out = etl_dir.parent
    report = evaluate_candidates(etl_dir, oracle, CONFIG, False, out=out)
    assert json.loads((out / "candidates.json").read_text()) == report
    systems = report["systems"]
    assert list(systems)[:3] == ["merged", "source_two_tower", "source_covisitation"]
    wanted = [relevant_of(user) for user in range(NUM_USERS) if relevant_of(user)]
    at_6 = np.mean([min(len(one), 6) / len(one) for one in wanted])
    assert systems["merged"]["recall@6"]["mean"] == pytest.approx(at_6)
    assert systems["source_two_tower"]["recall@6"]["mean"] == pytest.approx(np.mean([1 / len(one) for one in wanted]))
    assert systems["source_two_tower"]["num_candidates"]["mean"] == 1.0
    assert 0 < systems["source_covisitation"]["num_candidates"]["mean"] < 0.5
    assert systems["merged"]["ndcg@3"]["mean"] == pytest.approx(1.0)
    by_interactions = report["best_baseline"]["of_those_that_read_interactions_only"]
    content = {"popularity_by_category", "content_knn"}
    others = set(report["merged_minus"]) - content
    assert by_interactions["recall"] == max(systems[name]["recall@6"]["mean"] for name in others)
    best = report["best_baseline"]["of_all"]
    assert best["recall"] == max(systems[name]["recall@6"]["mean"] for name in report["merged_minus"])
    assert best["met"] and best["ratio"]["mean"] == pytest.approx(at_6 / best["recall"])
    for name, apart in report["merged_minus"].items():
        theirs = systems[name]["recall@6"]["mean"]
        assert apart["low"] > 0 and apart["mean"] == pytest.approx(at_6 - theirs)
        assert report["merged_over"][name]["mean"] == pytest.approx(at_6 / theirs)
        two_tower = systems["source_two_tower"]["recall@6"]["mean"]
        assert report["two_tower_minus"][name]["mean"] == pytest.approx(two_tower - theirs)
    assert {"popularity_by_category", "content_knn", "covisitation", "ease"} <= set(report["merged_minus"])


def test_cold_items_are_ranked_from_the_full_catalogue_and_alone(etl_dir):
    def nothing_but_cold(users: list[str]) -> dict[str, np.ndarray]:
        cold = [[row for row in relevant_of(int(name.split()[1])) if row >= NUM_ITEMS - NUM_COLD] for name in users]
        return {"merged": padded(cold, 6), "two_tower": padded([[]] * len(users), 1)}

    report = evaluate_candidates(etl_dir, oracle, CONFIG, False, out=etl_dir.parent, propose_cold=nothing_but_cold)
    cold = report["cold_items"]
    assert cold["num_items"] >= NUM_COLD and cold["chance"] == pytest.approx(6 / cold["num_items"])
    full, only = cold["full_catalogue"], cold["cold_only"]
    for name in ("popularity", "recent_popularity", "covisitation", "ease"):
        assert full["recall"][name]["mean"] == 0.0 and name not in only["recall"]
    assert only["recall"]["merged"]["mean"] == 1.0 and only["recall"]["source_two_tower"]["mean"] == 0.0
    # Four of the twelve cold items have a user's colour, so a list of six holds them all.
    for name in ("popularity_by_category", "content_knn"):
        assert only["recall"][name]["mean"] > cold["chance"]
        assert only["merged_minus"][name]["mean"] == pytest.approx(1 - only["recall"][name]["mean"])
        assert only["two_tower_minus"][name]["mean"] == pytest.approx(-only["recall"][name]["mean"])
    never = report["items_by_popularity"]["never seen"]
    assert never["recall"]["merged"] == full["recall"]["merged"] and never["num_users"] == cold["num_users"]


def test_baselines_are_fitted_once_for_both_reports(etl_dir, monkeypatch):
    out = etl_dir.parent
    first = evaluate_candidates(etl_dir, oracle, CONFIG, True, out=out)
    monkeypatch.setattr(world_module, "run_baselines", None)

    class Reply:
        def __init__(self, users: list[str]) -> None:
            self.candidate_ids = self.ranked_ids = oracle(users)["merged"]
            self.item_ids = self.candidate_ids[:, :3]
            self.source = np.array(["personal"] * len(users))

    served = evaluate(etl_dir, Reply, CONFIG, True, out=out)
    again = evaluate_candidates(etl_dir, oracle, CONFIG, True, out=out)
    assert again == first and served["baselines"] == first["baselines"]
    for cohorts in ("users_by_history", "items_by_popularity"):
        for name, cohort in served[cohorts].items():
            assert cohort["recall"]["cascade"] == first[cohorts][name]["recall"]["merged"]
            assert cohort["recall"]["content_knn"] == first[cohorts][name]["recall"]["content_knn"]


@pytest.mark.parametrize(
    ("propose", "message"),
    [
        (lambda users: {"two_tower": padded([[0]] * len(users), 1)}, "'merged' must be among them"),
        (lambda users: {"merged": np.array([["item 999"]] * len(users), object)}, "'item 999', which is not in"),
        (lambda users: {"merged": padded([[1, 1]] * len(users), 2)}, "repeats an item"),
        (lambda users: {"merged": padded([[1]], 1)}, "asked for 5 users, merged gave 1"),
    ],
)
def test_a_wrong_proposal_is_an_error_that_says_which(etl_dir, propose, message):
    with pytest.raises(ValueError, match=message):
        evaluate_candidates(etl_dir, propose, CONFIG, False, out=etl_dir.parent)


def test_a_cold_proposal_of_an_item_with_interactions_is_refused(etl_dir):
    with pytest.raises(EvaluationError, match=r"nobody had before the test period, and named 'item 000' with \d+"):
        evaluate_candidates(
            etl_dir,
            oracle,
            CONFIG,
            False,
            out=etl_dir.parent,
            propose_cold=lambda users: {"merged": padded([[0]] * len(users), 1)},
        )


def test_the_tables_show_every_system_the_goal_and_the_cohorts(etl_dir):
    report = evaluate_candidates(etl_dir, oracle, CONFIG, True, out=etl_dir.parent)
    text = StringIO()
    print_candidates(report, Console(file=text, width=160))
    shown = text.getvalue()
    for words in (
        "merged / it",
        "source two tower",
        "content knn",
        "best baseline of all",
        "goal 1.05: reached",
        "tenth 1",
    ):
        assert words in shown
    assert "repeat purchase left out" in shown
    assert f"recall@6 of the {report['cold_items']['num_items']} items that nobody had before" in shown


def test_every_user_is_in_the_cohort_of_the_length_of_the_history():
    cohorts = history_cohorts(np.array([0, 1, 4, 5, 19, 20, 99, 100, 5000]))
    assert {name: np.flatnonzero(chosen).tolist() for name, chosen in cohorts.items()} == {
        "0": [0],
        "1-4": [1, 2],
        "5-19": [3, 4],
        "20-99": [5, 6],
        "100+": [7, 8],
    }


def test_tenths_hold_a_tenth_of_the_interactions_each_where_counts_allow_it():
    assert popularity_tenths(np.ones(20, int)).tolist() == [6] * 20, "equals stay together, in the middle"
    counts = np.array([0, 50, 30, 10, 5, 3, 2, 0])
    # Middles of the joint interactions: 25, 65, 85, 92.5, 96.5, 99 of 100.
    assert popularity_tenths(counts).tolist() == [0, 3, 7, 9, 10, 10, 10, 0]
    assert popularity_tenths(np.zeros(3, int)).tolist() == [0, 0, 0]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=60))
def test_a_more_popular_item_is_never_in_a_later_tenth(counts):
    tenth = popularity_tenths(np.array(counts))
    assert ((tenth == 0) == (np.array(counts) == 0)).all() and tenth.max() <= 10
    order = np.argsort(-np.array(counts), kind="stable")
    had = [place for place in order if counts[place]]
    assert (np.diff(tenth[had]) >= 0).all()
    assert all(tenth[a] == tenth[b] for a in had for b in had if counts[a] == counts[b])


def test_recall_of_a_cohort_of_items_counts_only_its_items(etl_dir):
    report = evaluate_candidates(etl_dir, oracle, CONFIG, False, out=etl_dir.parent)
    rows = event_rows()
    tenth = popularity_tenths(np.bincount(rows[rows[:, 3] < 2, 1], minlength=NUM_ITEMS))
    for name, cohort in report["items_by_popularity"].items():
        number = 0 if name == "never seen" else int(name.split()[1])
        inside = [[row for row in relevant_of(user) if tenth[row] == number] for user in range(NUM_USERS)]
        ranked = np.array([(relevant_of(user) + [-1] * 6)[:6] for user in range(NUM_USERS)])
        expected = recall_at_k(ranked, inside, 6)
        assert cohort["recall"]["merged"]["mean"] == pytest.approx(np.nanmean(expected))
        assert cohort["num_users"] == np.count_nonzero(~np.isnan(expected))
        assert cohort["num_items"] == np.count_nonzero(tenth == number)
