"""A real Triton's request log and journal: what was served is, value by value, what the monitor makes again."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ensemble.client import RecommendClient
from ensemble.config import ServingConfig
from ensemble.request_log_config import RequestLogConfig
from ensemble.rollout import prepared_repository
from ensemble.server import TritonServer
from pipelines.__main__ import main
from pipelines.monitor.later_events import read_later_events
from pipelines.monitor_commands import DOCUMENT

pytestmark = [pytest.mark.triton, pytest.mark.slow]


@pytest.fixture(scope="module")
def run(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was served with live events between the requests, and whose server has ended."""
    run = shutil.copytree(small_run, tmp_path_factory.mktemp("served") / "run")
    table = pq.read_table(run / "etl" / "users.parquet", columns=["raw_id", "num_events"])
    users = table["raw_id"].filter(np.asarray(table["num_events"]) > 0).to_pylist()
    items = pq.read_table(run / "etl" / "items.parquet", columns=["raw_id"])["raw_id"].to_pylist()
    config = ServingConfig(http_port=0, grpc_port=0, metrics_port=0, request_log=RequestLogConfig(sample=1.0))
    (run / "serve").mkdir()
    repository = prepared_repository(run, run / "serve", config)
    with (
        TritonServer(repository.folder, run / "serve", config) as server,
        RecommendClient(server.grpc_url, timeout_seconds=60) as client,
    ):
        assert len(list(client.recommend_all(users, k=5))) > 1
        moment = int(time.time()) - 10
        buyers = [*users[:20], "a new user"]
        ids = [str(number) for number in range(len(buyers))]
        statuses = client.push_events(ids, buyers, items[: len(buyers)], [moment] * len(buyers))
        assert set(statuses.tolist()) == {"accepted"}
        time.sleep(1.1)  # the log has whole seconds
        client.recommend(buyers, k=5)
    return run


def test_features_that_were_served_are_those_of_the_raw_events(run, tmp_path, capsys):
    words = ["--monitor.max-release-days", "100000", "--monitor.min-requests", "20", "--out", str(tmp_path)]
    assert main(["monitor", str(run), *words]) in (0, 3), capsys.readouterr().err
    document = json.loads((tmp_path / DOCUMENT).read_text())
    assert document["events"] == str(run / "serve" / "events.db") and document["num_events"] == 21
    skew = document["skew"]
    assert skew["num_compared"] == document["window"]["requests"] > 120
    assert skew["num_differing"] == skew["num_behind"] == 0 and not skew["differing"]


def test_events_that_the_server_never_got_are_behind(run, tmp_path, capsys):
    asked = pq.read_table(run / "serve" / "requests")["user_id"].to_pylist()
    item = pq.read_table(run / "etl" / "items.parquet")["raw_id"][40].as_py()
    events = tmp_path / "events.jsonl"
    user = next(one for one in asked if asked.count(one) == 1)  # who pushed nothing
    missing = {"user_id": user, "item_id": item, "timestamp": int(time.time()) - 7_200}
    pushed = read_later_events(run / "serve" / "events.db")
    known = [{"user_id": one.user_id, "item_id": one.item_id, "timestamp": one.timestamp} for one in pushed]
    events.write_text("\n".join(map(json.dumps, [missing, *known])) + "\n")
    words = ["--monitor.max-release-days", "100000", "--monitor.min-requests", "20", "--out", str(tmp_path)]
    main(["monitor", str(run), "--events", str(events), *words])
    skew = json.loads((tmp_path / DOCUMENT).read_text())["skew"]
    assert skew["num_behind"] == 1 and skew["num_differing"] == 0
    assert 7_000 < skew["lag_seconds"]["p100"] < 8_000
