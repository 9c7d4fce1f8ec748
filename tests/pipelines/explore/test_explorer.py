"""What the explorer says, against the request path, the stages' files and the live events."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ensemble.config import ServingConfig
from ensemble.filter_config import FilterConfig, StockConfig
from ensemble.item_rules import RuleError
from ensemble.operators.retrieve_candidates import RetrieveCandidates
from ensemble.pipeline import Pipeline
from ensemble.request import Reply, Request, RequestError
from features.artifact import file_sha256, open_artifact
from features.list_column import matrix_of
from features.live.event import Event
from features.live.journal import Journal
from features.live.target import replay
from pipelines.config import CascadeConfig, load_saved_config
from pipelines.explore.explorer import Explorer, Slate
from pipelines.explore.images import Images
from pipelines.explore.question import ExploreError, Question, UnknownError
from pipelines.explore.reasons import FORBIDDEN, NOT_PROPOSED, NOT_SCORED, OUTRANKED, SHOWN
from pipelines.similar import similar_items

VERSION = "export/repository/cascade/1"
RULE = "price <= 20"


@pytest.fixture(scope="module")
def config(small_run) -> CascadeConfig:
    return load_saved_config(small_run / "config.json", [])


@pytest.fixture(scope="module")
def explorer(small_run, config) -> Explorer:
    return Explorer(small_run, config)


@pytest.fixture(scope="module")
def pipeline(small_run) -> Pipeline:
    return Pipeline.load(small_run / VERSION)


@pytest.fixture(scope="module")
def buyers(small_run) -> list[str]:
    """Users with a history, and items left."""
    users = pq.read_table(small_run / "etl/users.parquet", columns=["raw_id", "num_events"]).to_pydict()
    return [user for user, num in zip(users["raw_id"], users["num_events"], strict=True) if 5 < num < 30]


def written(folder: Path) -> dict[str, str]:
    """Every file with its hash; SQLite's notes of who has it open are none of its contents."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(("-wal", "-shm")))
    return {str(path.relative_to(folder)): file_sha256(path) for path in files}


def assert_equal(slate: Slate, reply: Reply) -> None:
    """Bit for bit."""
    shown = [one.item.id for one in slate.items]
    assert shown == [item for item in reply.item_ids[0] if item]
    for name, field in (("score", "scores"), ("propensity", "propensities")):
        values = np.array([getattr(one, name) for one in slate.items], np.float32)
        np.testing.assert_array_equal(values.view(np.int32), getattr(reply, field)[0, : len(shown)].view(np.int32))
    assert slate.source == reply.source[0]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"k": 40},
        {"temperature": 0.7, "seed": 5},
        {"diversity": 0.6},
        {"timestamp": 1_720_000_000},
        {"exclude": 3},
        {"allow": 7},
    ],
    ids=str,
)
def test_a_slate_is_what_the_request_path_answers_bit_for_bit(explorer, pipeline, buyers, options):
    for user in (*buyers[:4], "customer-000000", "stranger"):
        items = [found.id for found in explorer.tables.items("0100")]
        lists = {name: items[: options[name]] for name in ("exclude", "allow") if name in options}
        question = Question(**{"user": user, **options, **lists})
        asked: dict[str, Any] = {"k": 10, "seed": 0} | {
            name: value for name, value in options.items() if name not in lists
        }
        asked |= {name: [ids] for name, ids in lists.items()}
        assert_equal(explorer.slate(question), pipeline.recommend(Request.of([user], **asked)))


def test_ranks_after_each_stage_are_those_of_the_reply(explorer, pipeline, buyers):
    for user in buyers[:5]:
        reply = pipeline.recommend(Request.of([user], with_candidates=True))
        columns = pipeline.columns(Request.of([user]))
        slate = explorer.slate(Question(user=user))
        assert [one.ranks.ordered for one in slate.items] == list(range(1, len(slate.items) + 1))
        for one in [*slate.items, *slate.next]:
            assert reply.candidate_ids[0, one.ranks.merged - 1] == one.item.id
            assert reply.ranked_ids[0, one.ranks.ranked - 1] == one.item.id
            row = explorer.tables.item_row(one.item.id)
            for said in one.proposals:
                source = pipeline.source_names.index(said.source)
                assert columns["proposed_row"][0, source, said.rank - 1] == row
            assert len(one.proposals) == (columns["proposed_row"][0] == row).any(1).sum()
        assert len(slate.next) == 10 and slate.num_candidates == (reply.candidate_ids[0] != "").sum()


def test_an_item_of_the_slate_and_one_that_is_outranked_say_so(explorer, buyers):
    slate = explorer.slate(Question(user=buyers[0]))
    first, behind = slate.items[0], slate.next[2]
    reason = explorer.reason(Question(user=buyers[0], item=first.item.id))
    assert reason.verdict == SHOWN and reason.gap is None and reason.ranks == first.ranks
    assert reason.score == first.score and reason.proposals == first.proposals
    reason = explorer.reason(Question(user=buyers[0], item=behind.item.id))
    assert reason.verdict == OUTRANKED and reason.ranks.ordered is None
    assert reason.gap == pytest.approx(slate.items[-1].score - behind.score) and reason.gap > 0
    by_diversity = Question(user=buyers[0], item=slate.items[1].item.id, k=3, diversity=1.0)
    shown = [one.item.id for one in explorer.slate(by_diversity).items]
    held_back = next((one.item.id for one in slate.items if one.item.id not in shown), None)
    reason = explorer.reason(replace(by_diversity, item=held_back))
    assert reason.verdict == OUTRANKED and (reason.gap >= 0 or "its score would do" in reason.text)


def test_what_is_filtered_names_every_filter(explorer, buyers):
    user = buyers[0]
    had = explorer.user(user).history
    seen = next(one.item_id for one in had if one.is_known)
    shown = explorer.slate(Question(user=user)).items
    dear = next(one.item.id for one in shown if one.item.attributes["price"] > 20)

    def kinds(item: str, **options) -> list[str]:
        reason = explorer.reason(Question(user=user, item=item, **options))
        assert reason.verdict == FORBIDDEN and reason.score is None and reason.parts is None
        assert not explorer.slate(Question(user=user, **options)).items or item not in [
            one.item.id for one in explorer.slate(Question(user=user, **options)).items
        ]
        return [one.kind for one in reason.filters]

    assert kinds(seen) == ["seen"]
    assert kinds(dear, exclude=[dear]) == ["exclude"]
    assert kinds(dear, allow=[shown[-1].item.id, seen]) == ["allow"]
    assert kinds(dear, rules=[RULE]) == ["rule"]
    assert kinds(seen, exclude=[seen], rules=["price < 0"]) == ["seen", "exclude", "rule"]


def test_stock_is_a_reason(small_run, config, buyers, tmp_path):
    items = pq.read_table(small_run / "etl/items.parquet", columns=["raw_id"])["raw_id"].to_pylist()
    file = tmp_path / "stock.parquet"
    pq.write_table(pa.table({"item_id": items, "available": [place % 2 == 0 for place in range(len(items))]}), file)
    filters = FilterConfig(rules={"cheap": RULE}, stock=StockConfig(file=str(file)))
    stocked = Explorer(small_run, replace(config, serving=replace(config.serving, filters=filters)))
    had = {one.item_id for one in stocked.user(buyers[0]).history}
    gone = next(item for place, item in enumerate(items) if place % 2 and item not in had)
    reason = stocked.reason(Question(user=buyers[0], item=gone))
    assert "stock" in [one.kind for one in reason.filters]
    # A question's rules stand in place of the configured ones, and beside the stock.
    free = stocked.slate(Question(user=buyers[0], rules=[], k=40))
    assert all(items.index(one.item.id) % 2 == 0 for one in free.items)
    assert any(one.item.attributes["price"] > 20 for one in free.items)


def test_an_item_that_nobody_proposed_has_its_rank_in_a_deeper_search(small_run, config, buyers):
    explorer = Explorer(small_run, config)
    retrieve = next(one for one in explorer.pipeline.operators if isinstance(one, RetrieveCandidates))
    quotas = tuple(3 if name == "two_tower" else 2 * (name == "covisitation") for name in retrieve.opened_stage.names)
    retrieve.opened_stage = replace(retrieve.opened_stage, quotas=quotas)
    columns = explorer.pipeline.columns(Request.of(buyers[:1]))
    vectors = matrix_of(pq.read_table(small_run / "retrieval/item_vectors.parquet")["vector"])
    order = [
        int(row)
        for row in np.argsort(-(vectors @ columns["query_vector"][0]), kind="stable")
        if row not in columns["forbidden_row"][0]
    ]
    proposed = {*columns["proposed_row"][0].ravel().tolist()}
    place, row = next((place, row) for place, row in enumerate(order, 1) if row not in proposed)
    reason = explorer.reason(Question(user=buyers[0], item=explorer.tables.item_id(row), k=5))
    assert reason.verdict == NOT_PROPOSED and not reason.proposals
    assert {one.source: one.rank for one in reason.nearest}["two_tower"] == place
    assert reason.score is not None and reason.parts is not None


def test_an_item_behind_the_merge_says_so(explorer, buyers):
    user = buyers[0]
    columns = explorer.pipeline.columns(Request.of([user]))
    proposed = {*columns["proposed_row"][0].ravel().tolist()} - {-1}
    row = min(proposed - {*columns["candidate_row"][0].tolist()})
    reason = explorer.reason(Question(user=user, item=explorer.tables.item_id(row)))
    assert reason.verdict == NOT_SCORED and reason.proposals and "only 20 are scored" in reason.text
    assert reason.ranks.merged is None and reason.gap is not None and reason.parts is not None


def test_of_a_stranger_nothing_is_known(explorer):
    slate = explorer.slate(Question(user="stranger"))
    assert slate.source == "fallback" and not any(one.proposals for one in slate.items)
    reason = explorer.reason(Question(user="stranger", item=slate.items[0].item.id))
    assert reason.verdict == SHOWN and reason.parts is None
    last = explorer.reason(Question(user="stranger", item=explorer.tables.item_id(5), k=1))
    assert last.parts is None and last.verdict in (OUTRANKED, NOT_PROPOSED)


def test_contributions_add_up_to_the_served_score(explorer, buyers):
    for user in buyers[:3]:
        bases = []
        for one in explorer.slate(Question(user=user)).items[:4]:
            parts = explorer.reason(Question(user=user, item=one.item.id)).parts
            assert parts is not None and len(parts.parts) == 8
            assert parts.base + sum(part.moved for part in parts.parts) + parts.rest == pytest.approx(parts.score)
            assert parts.score == pytest.approx(one.score, abs=1e-4)
            sizes = [abs(part.moved) for part in parts.parts]
            assert sizes == sorted(sizes, reverse=True)
            bases.append(parts.base)
        assert np.ptp(bases) < 0.05  # all are told from the same middle


def test_supposed_clicks_do_what_live_events_do(small_run, config, buyers, tmp_path):
    """The oracle: the events in a copy's store, and the request path over it."""
    run = shutil.copytree(small_run, tmp_path / "run")
    explorer = Explorer(run, config)
    before = written(run)
    user, newcomer = buyers[2], "just born"
    as_served = explorer.slate(Question(user=user))
    clicks = [one.item.id for one in as_served.items[:3]] + [as_served.items[0].item.id]
    moment = explorer.pipeline.as_of + 3_600
    asked = {"clicks": clicks, "timestamp": moment}
    supposed = [explorer.slate(Question(user=one, **asked)) for one in (user, newcomer)]
    at_once = explorer.slate(Question(user=user, clicks=clicks))
    assert written(run) == before
    assert explorer.slate(Question(user=user)) == as_served
    assert -1 <= supposed[0].query_cosine < 1 and as_served.query_cosine == 1
    assert not {one.item.id for one in supposed[0].items} & set(clicks)
    assert explorer.reason(Question(user=user, item=clicks[0], **asked)).filters[0].kind == "seen"

    for name, start, first in (("later", moment, supposed[0]), ("at once", explorer.pipeline.as_of, at_once)):
        version = shutil.copytree(small_run / VERSION, tmp_path / name)
        with Journal(tmp_path / f"{name}.db") as journal:
            for of in (user, newcomer):
                events = [
                    Event.of(f"{of} {place}", of, item, start + place, now=start + place)
                    for place, item in enumerate(clicks)
                ]
                assert set(journal.append(events)) == {"accepted"}
        assert replay(tmp_path / f"{name}.db", version) == 2 * len(clicks)
        real = Pipeline.load(version)
        timestamp = moment if name == "later" else None
        assert_equal(first, real.recommend(Request.of([user], timestamp=timestamp, seed=0)))
        if name == "later":
            assert_equal(supposed[1], real.recommend(Request.of([newcomer], timestamp=moment, seed=0)))


def test_rules_of_a_question_are_those_of_a_server_and_nobody_elses(small_run, explorer, buyers):
    served = Pipeline.load(small_run / VERSION, ServingConfig(filters=FilterConfig(rules={"cheap": RULE})))
    as_served = explorer.slate(Question(user=buyers[1]))
    ruled = explorer.slate(Question(user=buyers[1], rules=[RULE, " "]))
    assert_equal(ruled, served.recommend(Request.of([buyers[1]], seed=0)))
    assert ruled.num_removed["rules"] and all(one.item.attributes["price"] <= 20 for one in ruled.items)
    assert explorer.slate(Question(user=buyers[1])) == as_served


def test_users_and_items_are_found(explorer):
    assert [one.id for one in explorer.tables.users("customer-00001")][:2] == ["customer-000010", "customer-000011"]
    assert explorer.tables.users("000007")[0].id == "customer-000007"
    assert not explorer.tables.users("nobody has this")
    first = explorer.tables.items("0100000001")[0]
    assert first.id == "0100000001" and first.title
    words = " ".join(word.upper() for word in reversed(first.title.split()))
    assert first.id in [one.id for one in explorer.tables.items(words)]
    assert len(explorer.tables.items("")) == 20


def test_a_user_has_the_history_of_the_log_newest_first(explorer, small_run, buyers):
    user = explorer.user(buyers[0])
    users = pq.read_table(small_run / "etl/users.parquet", columns=["raw_id"])["raw_id"].to_pylist()
    events = pq.read_table(small_run / "etl/events.parquet").to_pylist()
    own = [one for one in events if one["user_row"] == users.index(user.id)]
    assert sorted((one.timestamp for one in user.history), reverse=True) == [one.timestamp for one in user.history]
    wanted = sorted((one["timestamp"], explorer.tables.item_id(one["item_row"])) for one in own)
    assert sorted((one.timestamp, one.item_id) for one in user.history) == wanted
    assert sum(one.is_known for one in user.history) == user.num_events
    assert user.attributes["club_member_status"] and "user_id" not in user.attributes


def test_similar_items_are_those_of_the_command(explorer, small_run):
    item = explorer.tables.item_id(3)
    (expected,) = similar_items(open_artifact(small_run / "retrieval", "retrieval"), [item], 5)
    assert [(one.id, cosine) for one, cosine in explorer.similar(item, 5)] == expected.items


def test_pictures_come_from_the_folder_and_never_from_outside(tmp_path):
    (tmp_path / "pictures/010").mkdir(parents=True)
    (tmp_path / "pictures/010/0100000001.jpg").write_bytes(b"jpeg")
    (tmp_path / "pictures/7.png").write_bytes(b"png")
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "pictures/link.png").symlink_to(tmp_path / "secret.png")
    images = Images(tmp_path / "pictures")
    assert images.path("0100000001") == tmp_path / "pictures/010/0100000001.jpg"
    assert images.path("7") is not None
    for item_id in ("../secret", "link", "", "8", "a\0b", "..", str(tmp_path / "secret")):
        assert images.path(item_id) is None
    assert Images(None).path("7") is None


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        ({"item": "no such"}, UnknownError, "has no item 'no such'"),
        ({"clicks": ["no such"]}, UnknownError, "has no item 'no such'"),
        ({"rules": ["colour =="]}, RuleError, "colour =="),
        ({"rules": ["colour == 1"]}, RuleError, "items have no column 'colour'"),
        ({"diversity": 2.0}, RequestError, "diversity must be a number 0..1"),
        ({"timestamp": -5}, RequestError, "timestamp"),
        ({"seed": 2**63}, RequestError, "seed"),
        ({"item": None}, ExploreError, "name the item"),
    ],
    ids=str,
)
def test_a_question_that_cannot_be_answered_says_what_was_expected(explorer, buyers, wrong, error, said):
    with pytest.raises(error, match=said):
        explorer.reason(Question(**{"user": buyers[0], "item": "0100000001"} | wrong))
    assert explorer.slate(Question(user=buyers[0])).items


def test_a_question_is_read_strictly():
    with pytest.raises(ExploreError, match=r"k: Input should be a valid integer.*extra: Unexpected keyword"):
        Question.read(json.dumps({"user": "u", "k": "10", "extra": 1}).encode())
    with pytest.raises(ExploreError, match="Invalid JSON"):
        Question.read(b"{")
    assert Question.read(b'{"user": "u"}') == Question(user="u")
