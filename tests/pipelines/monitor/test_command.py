"""The command on a real folder of log files: exit statuses, what it writes, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ensemble.request_rows import SCHEMA
from features.live.event import Event
from features.live.journal import Journal
from pipelines.__main__ import main
from pipelines.monitor.made_days import Fault
from pipelines.monitor.prometheus_file import METRICS
from pipelines.monitor_commands import DOCUMENT, PAGE, PROMETHEUS


@pytest.fixture(scope="module")
def run(judged, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was served for three days, with the events beside the log."""
    run = shutil.copytree(judged.days.run, tmp_path_factory.mktemp("monitored") / "shop")
    write_days(run / "serve" / "requests", [judged.good_day(number).log for number in (1, 2, 3)])
    write_events(run / "events.jsonl", judged.good_day(3).events)
    return run


def write_days(folder: Path, logs: list[pa.Table]) -> None:
    folder.mkdir(parents=True)
    for number, log in enumerate(logs):
        pq.write_table(log.replace_schema_metadata(SCHEMA.metadata), folder / f"requests-{number}.parquet")


def write_events(path: Path, events) -> None:
    rows = [{"user_id": one.user_id, "item_id": one.item_id, "timestamp": one.timestamp} for one in events]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")


def monitor(run: Path, out: Path, *more: str) -> int:
    return main(["monitor", str(run), "--events", str(run / "events.jsonl"), "--out", str(out), *more])


def test_good_days_end_with_0_and_leave_page_document_and_metrics(run, tmp_path, capsys):
    assert monitor(run, tmp_path) == 0
    said = capsys.readouterr().out
    assert "200 requests compared, 0 with a feature" in said and "status    ok" in said
    document = json.loads((tmp_path / DOCUMENT).read_text())
    assert document["status"] == "ok" and document["window"]["requests"] == 200 and not document["causes"]
    assert len(document["shown_by_day"]) >= 3 and document["skew"]["num_differing"] == 0
    page = (tmp_path / PAGE).read_text()
    assert "Nothing is beyond its threshold" in page
    assert not re.search(r"<script|(?:src|href)=\"(?!#)", page), "the page fetches nothing"
    families = {one.name: one for one in text_string_to_metric_families((tmp_path / PROMETHEUS).read_text())}
    assert set(families) <= set(METRICS) and {"cascade_monitor_cause", "cascade_monitor_feature_psi"} <= set(families)
    [status] = [sample for sample in families["cascade_monitor_status"].samples if sample.value]
    assert status.labels == {"status": "ok"}


def test_a_fault_ends_with_3_and_is_named_with_what_to_do(judged, run, tmp_path, capsys):
    day = judged.days.day(4, 1, Fault("broken_join", "attributes", 0.9))
    write_days(tmp_path / "requests", [judged.good_day(2).log, judged.good_day(3).log, day.log])
    assert monitor(run, tmp_path / "out", "--log", str(tmp_path / "requests")) == 3
    said = capsys.readouterr().out
    assert "broken_join attributes: " in said and "compare the ids of requests" in said and "more, see the page" in said
    document = json.loads((tmp_path / "out" / DOCUMENT).read_text())
    assert document["causes"][0]["kind"] == "broken_join" and len(document["causes"][0]["findings"]) > 1
    assert "broken join: attributes." in (tmp_path / "out" / PAGE).read_text()
    text = (tmp_path / "out" / PROMETHEUS).read_text()
    assert 'cascade_monitor_cause{kind="broken_join"} 1.0' in text


def test_thresholds_of_the_configuration_decide(run, tmp_path):
    assert monitor(run, tmp_path, "--monitor.psi", "0.001", "--monitor.ks", "0.001") == 0, "chance is no shift"
    assert monitor(run, tmp_path, "--monitor.max-release-days", "1") == 3
    assert [one["kind"] for one in json.loads((tmp_path / DOCUMENT).read_text())["causes"]] == ["old_release"]


def test_too_few_requests_end_with_4(run, tmp_path, capsys):
    assert monitor(run, tmp_path, "--monitor.min-requests", "1000") == 4
    assert "too few requests" in capsys.readouterr().out
    assert "There are too few requests to judge" in (tmp_path / PAGE).read_text()


def test_the_window_ends_where_it_is_told(run, judged, tmp_path):
    end = judged.good_day(2).log["received"][-1].as_py().isoformat()
    assert monitor(run, tmp_path, "--until", end) == 0
    assert len(json.loads((tmp_path / DOCUMENT).read_text())["shown_by_day"]) == 2


def test_a_log_of_good_days_can_be_the_reference(run, tmp_path, capsys):
    assert monitor(run, tmp_path, "--reference", str(run / "serve" / "requests")) == 0
    assert "600 logged requests of 2.0 days" in capsys.readouterr().out


def test_users_as_they_are_now(run, tmp_path, capsys):
    raw = pq.read_table(run / "etl" / "raw" / "users.parquet")
    raw.to_pandas().to_csv(tmp_path / "users.csv", index=False)
    assert monitor(run, tmp_path, "--users", str(tmp_path / "users.csv")) == 0
    raw.drop_columns(["age"]).to_pandas().to_csv(tmp_path / "users.csv", index=False)
    assert monitor(run, tmp_path, "--users", str(tmp_path / "users.csv")) == 1
    assert "has no column 'age'; needs user_id" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--log", "nowhere"], "holds no requests-*.parquet; `cascade serve` writes them"),
        (["--until", "yesterday"], "--until must be a time in ISO 8601"),
        (["--until", "2001-01-01"], "in the time asked for"),
        (["--events", "nowhere.csv"], "there is no such file; --events names"),
        (["--users", "nowhere.csv"], "there is no such file; --users needs a table with user_id"),
        (["--monitor.psi", "0"], "monitor.psi"),
        (["--retrieval.max-epochs", "9"], "was made with another value of retrieval"),
    ],
)
def test_what_it_cannot_use_is_said_and_ends_with_1(run, tmp_path, capsys, words, said):
    assert monitor(run, tmp_path, *words) == 1
    assert said in capsys.readouterr().err


def test_the_journal_beside_the_log_is_read_and_one_that_has_forgotten_is_refused(judged, tmp_path, capsys):
    run = shutil.copytree(judged.days.run, tmp_path / "shop")
    day = judged.good_day(3)
    write_days(run / "serve" / "requests", [day.log])
    events = [
        Event(str(place), one.user_id, one.item_id, one.timestamp, "{}", one.timestamp)
        for place, one in enumerate(day.events)
    ]
    with Journal(run / "serve" / "events.db") as journal:
        journal.append(events)
        assert main(["monitor", str(run)]) == 0
        assert f"events: {run / 'serve' / 'events.db'}" in capsys.readouterr().out
        journal.forget(events[5].timestamp)
    assert main(["monitor", str(run)]) == 1
    assert "has forgotten what came before" in capsys.readouterr().err


def test_requests_of_another_release_are_told_from_its_own(run, judged, tmp_path, capsys):
    log = judged.good_day(1).log
    place = log.schema.get_field_index("release")
    write_days(tmp_path / "requests", [log.set_column(place, "release", pa.array(["another"] * len(log)))])
    assert monitor(run, tmp_path / "out", "--log", str(tmp_path / "requests")) == 1
    assert "but those of another (200 rows); name the run that was live" in capsys.readouterr().err


def test_a_folder_that_is_no_run(tmp_path, capsys):
    assert main(["monitor", str(tmp_path)]) == 1
    assert "there is no such run" in capsys.readouterr().err
