"""A run evaluated on the request log of another: through the exported pipeline and the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ensemble.config import ServingConfig
from ensemble.ordering_config import OrderingConfig
from ensemble.pipeline import Pipeline
from ensemble.request import Request
from ensemble.request_log import SampledRequest, SampledRun
from ensemble.request_rows import SCHEMA, LoggedRelease, batches_of, kept
from ensemble.trace import Trace
from pipelines.__main__ import main

NUM_CALLS, K, RECEIVED = 20, 4, 1_790_000_000
WARM, WARMER = 0.5, 1.0
PLACES = np.array([0.6, 0.4, 0.3, 0.2])


@pytest.fixture(scope="module")
def version(small_run: Path) -> Path:
    return small_run / "export" / "repository" / "cascade" / "1"


@pytest.fixture(scope="module")
def users(small_run: Path) -> list[str]:
    return [*pq.read_table(small_run / "etl" / "users.parquet", columns=["raw_id"])["raw_id"].to_pylist()[:60], "new"]


def opened(version: Path, temperature: float) -> Pipeline:
    ordering = OrderingConfig(temperature=temperature, diversity=0.2)
    return Pipeline.load(version, ServingConfig(ordering=ordering))


def write_log(folder: Path, pipeline: Pipeline, version: Path, users: list[str], num_calls: int = NUM_CALLS) -> Path:
    release = LoggedRelease.read(version, pipeline.source_names, pipeline.feature_names)
    runs = []
    for number in range(num_calls):
        request, trace = Request.of(users, K, exclude=[["x"]] * len(users), seed=number), Trace()
        reply = pipeline.recommend(request, trace)
        whole = [SampledRequest(f"r{number}", "", slice(0, len(users)))]
        runs.append(SampledRun(whole, 1, RECEIVED + 3_600.0 * number, 0.1, request, reply, trace))
    folder.mkdir()
    batches = batches_of([kept(run, release) for run in runs], release)
    pq.write_table(pa.Table.from_batches(batches, SCHEMA), folder / "requests-1.parquet")
    return folder


def rate(item: str, place: int) -> float:
    """Click probability: some items are worth more, and upper places are seen more."""
    return PLACES[place] * (0.2 + 0.6 * (sum(item.encode()) % 3 == 0))


@pytest.fixture(scope="module")
def log(version, users, tmp_path_factory) -> Path:
    return write_log(tmp_path_factory.mktemp("log") / "requests", opened(version, WARM), version, users)


@pytest.fixture(scope="module")
def events(log: Path) -> Path:
    rng = np.random.default_rng(1)
    lines = []
    for row in pq.read_table(log / "requests-1.parquet").to_pylist():
        moment = int(row["received"].timestamp()) + 60
        for place, item in enumerate(row["slate_ids"]):
            if rng.random() < rate(item, place):
                lines.append(json.dumps({"user_id": row["user_id"], "item_id": item, "timestamp": moment}))
    file = log.parent / "events.jsonl"
    file.write_text("\n".join(lines))
    return file


def report_of(tmp_path: Path, *words: object) -> dict:
    out = tmp_path / "ope.json"
    assert main(["ope", *map(str, words), "--window-hours", "0.5", "--places", "1,2,4", "--out", str(out)]) == 0
    return json.loads(out.read_text())


def test_the_policy_of_the_log_is_worth_what_it_earned(small_run, log, events, tmp_path, capsys):
    warm = [f"--serving.ordering.temperature={WARM}", "--serving.ordering.diversity=0.2"]
    report = report_of(tmp_path, "--log", log, "--policy", small_run, "--events", events, *warm)
    assert report["users"] == 61 and report["slates"] == 61 * NUM_CALLS and report["covered"] == pytest.approx(1)
    for one in report["places"]:
        assert one["effective_sample_size"] == pytest.approx(report["slates"])
        for name in ("ips", "snips"):
            assert one["estimates"][name]["value"] == pytest.approx(one["logged"]["value"], rel=1e-3)
    assert "places: the first 4" in capsys.readouterr().out


def test_another_temperature_is_worth_what_it_would_earn(small_run, version, users, log, events, tmp_path):
    other = [f"--serving.ordering.temperature={WARMER}", "--serving.ordering.diversity=0.2"]
    report = report_of(tmp_path, "--log", log, "--policy", small_run, "--events", events, *other)
    assert report["weights_add_up"]
    pipeline = opened(version, WARMER)
    replies = [
        pipeline.recommend(Request.of(users, K, exclude=[["x"]] * len(users), seed=1_000 + n)) for n in range(60)
    ]
    earned_k = np.mean(
        [[[rate(item, place) for place, item in enumerate(slate)] for slate in one.item_ids] for one in replies], (0, 1)
    )
    for one in report["places"]:
        for name, estimate in one["estimates"].items():
            truth = earned_k[: one["places"]].sum()
            assert abs(estimate["value"] - truth) < 4 * estimate["standard_error"] + 0.01, (one["places"], name)


def test_propensities_that_do_not_fit_the_candidates_are_named(small_run, log, events, tmp_path, capsys):
    table, wrong = pq.read_table(log / "requests-1.parquet"), tmp_path / "wrong"
    wrong.mkdir()
    index = table.schema.get_field_index("slate_propensities")
    half = pa.array(
        [[one / 2 for one in row] for row in table["slate_propensities"].to_pylist()], table.schema[index].type
    )
    pq.write_table(table.set_column(index, "slate_propensities", half), wrong / "requests-1.parquet")
    warm = [f"--serving.ordering.temperature={WARM}", "--serving.ordering.diversity=0.2"]
    assert not report_of(tmp_path, "--log", wrong, "--policy", small_run, "--events", events, *warm)["weights_add_up"]
    assert "propensities do not fit its candidates" in capsys.readouterr().out


def test_rewards_may_come_as_a_table(small_run, log, tmp_path):
    first = pq.read_table(log / "requests-1.parquet").to_pylist()[0]
    table = {"request_id": [first["request_id"]], "user_id": [first["user_id"]], "item_id": [first["slate_ids"][1]]}
    pq.write_table(pa.table(table | {"reward": [2.5]}), tmp_path / "rewards.parquet")
    asked = ["--serving.ordering.temperature=1", "--rewards", tmp_path / "rewards.parquet"]
    report = report_of(tmp_path, "--log", log, "--policy", small_run, *asked)
    assert [one["rewards"] for one in report["places"]] == [0, 2.5, 2.5]


def test_what_cannot_be_evaluated_says_why(small_run, version, users, log, events, tmp_path, capsys):
    def said(*words: object) -> str:
        assert main(["ope", *map(str, words)]) == 1
        return capsys.readouterr().err

    cold = write_log(tmp_path / "cold", opened(version, 0.0), version, users[:3], num_calls=2)
    given = ["--policy", small_run, "--events", events]
    assert "6 have no randomness (propensity 1)" in said("--log", cold, *given)
    assert "holds no requests-*.parquet" in said("--log", tmp_path, *given)
    assert "--log needs one of --policy RUN" in said("--log", log)
    assert "needs one of --events FILE" in said("--log", log, "--policy", small_run)
    assert "needs one of --log FOLDER" in said()
    late = tmp_path / "late.csv"
    late.write_text("user_id,item_id,timestamp\nnobody,nothing,5\n")
    assert "none of its 1 events is of a user and an item that the log shows" in said(
        "--log", log, "--policy", small_run, "--events", late
    )
    table = pq.read_table(log / "requests-1.parquet")
    early = tmp_path / "early"
    early.mkdir()
    received = pa.array([0] * len(table), table.schema.field("received").type)
    pq.write_table(
        table.set_column(table.schema.get_field_index("received"), "received", received), early / "requests-1.parquet"
    )
    late.write_text(f"user_id,item_id,timestamp\n{table['user_id'][0]},{table['slate_ids'][0][0]},5\n")
    assert "it would be judged by what it has seen" in said("--log", early, "--policy", small_run, "--events", late)
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    kind = table.schema.field("candidate_ids").type
    index = table.schema.get_field_index("candidate_ids")
    pq.write_table(table.set_column(index, "candidate_ids", pa.nulls(len(table), kind)), nothing / "requests-1.parquet")
    assert "have no candidates; the log must say what could have been shown" in said("--log", nothing, *given)
