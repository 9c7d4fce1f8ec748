"""The slates of many users in a file, against the slates of one user from the same exported graph."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ensemble.config import ServingConfig
from ensemble.pipeline import Pipeline
from ensemble.request import Reply, Request
from pipelines import batch_recommend
from pipelines.__main__ import main
from pipelines.batch_recommend import SCHEMA, Ask, BatchError, slate_rows, write_slates
from pipelines.config import load_saved_config
from pipelines.user_list import UserList

COLUMNS = ["user_id", "rank", "item_id", "score", "source"]


@pytest.fixture(scope="module")
def version(small_run: Path) -> Path:
    return small_run / "export" / "repository" / "cascade" / "1"


@pytest.fixture(scope="module")
def pipeline(version: Path) -> Pipeline:
    return Pipeline.load(version)


def everybody(small_run: Path) -> list[str]:
    return pq.read_table(small_run / "etl" / "users.parquet", columns=["raw_id"])["raw_id"].to_pylist()


def slates(file: Path) -> dict[str, list[tuple]]:
    """Rows by user, in the file's order."""
    found: dict[str, list[tuple]] = {}
    for row in pq.read_table(file).to_pylist():
        found.setdefault(row["user_id"], []).append(tuple(row[name] for name in COLUMNS[1:]))
    return found


def alone(pipeline: Pipeline, user: str, k: int, exclude: tuple[str, ...] = ()) -> list[tuple]:
    """The rows of one user who asks alone."""
    reply = pipeline.recommend(Request.of([user], k, [exclude]))
    rows = zip(reply.item_ids[0], reply.scores[0], strict=True)
    return [(rank, item, score, reply.source[0]) for rank, (item, score) in enumerate(rows, 1) if item]


def test_every_user_of_a_run_gets_what_the_user_gets_alone(small_run, pipeline, tmp_path, capsys):
    out = tmp_path / "all.parquet"
    assert main(["recommend", "--all", "--k", "7", "--run", str(small_run), "--out", str(out)]) == 0
    assert "150 users, 1,050 rows" in capsys.readouterr().out
    assert pq.read_schema(out).names == COLUMNS
    found = slates(out)
    assert list(found) == everybody(small_run)
    for user, rows in found.items():
        assert rows == alone(pipeline, user, 7)


def test_the_file_says_what_recommend_local_json_says(small_run, tmp_path, capsys):
    users = everybody(small_run)[:3]
    words = ["--k", "4", "--run", str(small_run)]
    (tmp_path / "users.txt").write_text("\n".join(users))
    out = tmp_path / "some.parquet"
    assert main(["recommend", "--users-from", str(tmp_path / "users.txt"), "--out", str(out), *words]) == 0
    capsys.readouterr()
    assert main(["recommend", "--users", ",".join(users), "--local", "--json", *words]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = slates(out)
    assert list(found) == [one["user_id"] for one in printed]
    for one in printed:
        items = [(item["item_id"], item["score"], one["source"]) for item in one["items"]]
        assert [row[1:] for row in found[one["user_id"]]] == items


def serving_of(run: Path) -> ServingConfig:
    return load_saved_config(run / "config.json").serving


def test_what_the_configuration_keeps_from_everybody_is_kept_in_process_and_in_the_file(
    small_run, pipeline, run_served_as, tmp_path, capsys
):
    users = everybody(small_run)
    banned, gone = (alone(pipeline, user, 1)[0][1] for user in users[:2])
    (tmp_path / "stock.csv").write_text(f"item_id,available\n{gone},0\n")
    filters = {"rules": {"decent": f'item_id != "{banned}"'}, "stock": {"file": str(tmp_path / "stock.csv")}}
    run = run_served_as(filters=filters, ordering={"boosts": {"price > 20": 0.3}, "diversity": 0.4})
    served = Pipeline.load(run / "export/repository/cascade/1", serving_of(run))
    out = tmp_path / "all.parquet"
    assert main(["recommend", "--all", "--k", "7", "--run", str(run), "--out", str(out)]) == 0
    found = slates(out)
    assert found == {user: alone(served, user, 7) for user in users}
    shown = {item for rows in found.values() for _, item, *_ in rows}
    shown_by_default = {item for user in users for _, item, *_ in alone(pipeline, user, 7)}
    assert {banned, gone} <= shown_by_default and {banned, gone}.isdisjoint(shown)
    capsys.readouterr()
    words = ["--users", ",".join(users[:5]), "--k", "7", "--local", "--json"]
    assert main(["recommend", *words, "--run", str(run)]) == 0
    for line in capsys.readouterr().out.splitlines():
        one = json.loads(line)
        assert [item["item_id"] for item in one["items"]] == [item for _, item, *_ in found[one["user_id"]]]


def test_sampled_slates_are_drawn_with_the_seed_of_the_run(version, run_served_as, tmp_path):
    run = run_served_as(ordering={"temperature": 0.5})
    for name in ("one", "two"):
        assert main(["recommend", "--all", "--run", str(run), "--out", str(tmp_path / f"{name}.parquet")]) == 0
    one, two = (slates(tmp_path / f"{name}.parquet") for name in ("one", "two"))
    sampling, seed = Pipeline.load(version, serving_of(run)), load_saved_config(run / "config.json").seed
    drawn = {user: sampling.recommend(Request.of([user], seed=seed)).item_ids[0].tolist() for user in one}
    assert one == two and drawn == {user: [item for _, item, *_ in rows] for user, rows in one.items()}
    scores = [[score for *_, score, _ in rows] for rows in one.values()]
    assert any(mine != sorted(mine, reverse=True) for mine in scores)


def test_more_items_than_candidates_are_asked_for_and_the_end_of_the_catalogue_is_counted(
    small_run, version, pipeline, tmp_path
):
    users = UserList.open(small_run / "etl" / "users.parquet", "raw_id")
    out = tmp_path / "deep.parquet"
    written = write_slates(version, users, Ask(k=80), out, {})  # 20 candidates, 80 items, and past items are dropped
    found = slates(out)
    lengths = {user: len(rows) for user, rows in found.items()}
    assert max(lengths.values()) > 20 and written.num_rows == sum(lengths.values())
    assert written.num_short == sum(length < 80 for length in lengths.values()) > 0
    assert sum(written.sources.values()) == written.num_users == 150
    user = everybody(small_run)[0]
    assert found[user] == alone(pipeline, user, 80)


def test_exclude_counts_for_everybody_and_a_stranger_gets_the_fallback(small_run, pipeline, tmp_path):
    user = everybody(small_run)[0]
    banned = alone(pipeline, user, 1)[0][1]
    (tmp_path / "users.txt").write_text(f"{user}\n\n  a-stranger \n{user}\n")
    out = tmp_path / "some.parquet"
    words = ["--users-from", str(tmp_path / "users.txt"), "--exclude", banned, "--k", "5"]
    assert main(["recommend", *words, "--out", str(out), "--run", str(small_run)]) == 0
    table = pq.read_table(out)
    assert table["user_id"].to_pylist() == [user] * 5 + ["a-stranger"] * 5 + [user] * 5
    assert banned not in table["item_id"].to_pylist()
    assert set(table["source"].to_pylist()[5:10]) == {"fallback"}
    assert table["rank"].to_pylist() == [1, 2, 3, 4, 5] * 3
    assert table.slice(0, 5).equals(table.slice(10, 5))


def test_row_groups_and_calls_of_any_size_give_the_same_rows(small_run, version, tmp_path, monkeypatch):
    users = UserList.open(small_run / "etl" / "users.parquet", "raw_id")
    write_slates(version, users, Ask(k=5), tmp_path / "one.parquet", {})
    monkeypatch.setattr(batch_recommend, "USERS_PER_CALL", 7)
    monkeypatch.setattr(batch_recommend, "ROWS_PER_GROUP", 100)
    write_slates(version, users, Ask(k=5), tmp_path / "many.parquet", {})
    one, many = (pq.ParquetFile(tmp_path / f"{name}.parquet") for name in ("one", "many"))
    assert one.num_row_groups == 1 and one.read().equals(many.read())
    # 3 calls of 7 users with 5 items fill a group: no more than that ever waits
    assert [many.metadata.row_group(group).num_rows for group in range(many.num_row_groups)] == [105] * 7 + [15]


def test_a_reply_becomes_rows_without_its_empty_places():
    reply = Reply(
        item_ids=np.array([["x", "y"], ["z", ""], ["", ""]], dtype=object),
        scores=np.array([[2, 1], [3, -np.inf], [-np.inf, -np.inf]], dtype=np.float32),
        propensities=np.ones((3, 2), np.float32),
        source=np.array(["personal", "cold", "fallback"], dtype=object),
        candidate_ids=np.empty((3, 0), dtype=object),
        ranked_ids=np.empty((3, 0), dtype=object),
    )
    rows, num_items_B = slate_rows(["a", "b", "c"], reply)
    assert rows.schema == SCHEMA and num_items_B.tolist() == [2, 1, 0]
    assert [tuple(row.values()) for row in rows.to_pylist()] == [
        ("a", 1, "x", 2.0, "personal"),
        ("a", 2, "y", 1.0, "personal"),
        ("b", 1, "z", 3.0, "cold"),
    ]


def test_a_store_that_is_down_is_an_error_and_the_older_file_stays(small_run, version, pipeline, tmp_path, monkeypatch):
    real = pipeline.recommend

    class Breaks:
        calls = 0

        def recommend(self, request):
            Breaks.calls += 1
            reply = real(request)
            if Breaks.calls > 1:
                reply.source[-1] = "degraded"
            return reply

    monkeypatch.setattr(Pipeline, "load", lambda folder, config: Breaks())
    out = tmp_path / "slates.parquet"
    out.write_text("the older one")
    users = UserList.open(small_run / "etl" / "users.parquet", "raw_id")
    with pytest.raises(BatchError, match=r"could not be read.* after 128 users"):
        write_slates(version, users, Ask(k=3), out, {})
    assert out.read_text() == "the older one" and os.listdir(tmp_path) == ["slates.parquet"]


def test_the_metadata_names_the_exported_model(small_run, tmp_path):
    out = tmp_path / "slates.parquet"
    assert main(["recommend", "--all", "--k", "2", "--run", str(small_run), "--out", str(out)]) == 0
    manifest = json.loads((small_run / "export" / "manifest.json").read_text())
    assert json.loads(pq.read_schema(out).metadata[b"cascade"]) == {"export": manifest["content_hash"], "k": 2}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--all"], "--all needs --out FILE.parquet for the slates"),
        (["--all", "--out", "folder"], "got --out folder; the run's folder goes to --run"),
        (["--users-from", "x"], "--users-from needs --out FILE.parquet"),
        (["--all", "--out", "x.parquet", "--json"], "leave out --json"),
        (["--all", "--out", "x.parquet", "--url", "127.0.0.1:9"], "leave out --url"),
        (["--all", "--out", "x.parquet", "--processes", "0"], "--processes must be at least 1, got 0"),
        (["--all", "--out", "x.parquet", "--run", "none"], "none: there is no such run"),
        (["--all", "--out", "x.parquet"], "no run is known here; give its folder: --run runs/NAME"),
        (["--users", "a", "--out", "x.parquet"], "--out x.parquet needs --all or --users-from"),
        (["--users", "a", "--processes", "2"], "--processes needs --all or --users-from"),
        (["--users", "a", "--local", "--run", "b", "--out", "c"], "both name the run's folder"),
    ],
)
def test_options_that_do_not_fit_each_other_are_refused(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["recommend", *words]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("cascade recommend: ") and said in captured.err and captured.out == ""
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--all", "--k", "0"], "k row 0 must be 1..1000, got 0"),
        (["--all", "--k", "1001"], "k row 0 must be 1..1000, got 1001"),
        (["--all", "--timestamp", "-5"], "timestamp row 0 must be"),
        (["--users-from", "none.txt"], "none.txt: there is no such file"),
        (["--users-from", "long.txt"], "long.txt, rows counted from user 0: user_id row 1"),
        (["--all", "--out", "none/x.parquet"], "there is no folder none"),
    ],
)
def test_what_cannot_be_asked_or_written_is_said_and_leaves_no_file(
    words, said, small_run, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("long.txt").write_text("a\n" + "b" * 300 + "\n")
    assert main(["recommend", "--out", "x.parquet", *words, "--run", str(small_run)]) == 1
    assert said in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["long.txt"]


@pytest.mark.slow
def test_several_processes_write_the_same_file(small_run, tmp_path):
    files = [tmp_path / f"{number}.parquet" for number in (1, 2)]
    for number, file in enumerate(files, start=1):
        command = ["recommend", "--all", "--k", "5", "--run", str(small_run), "--out", str(file)]
        done = subprocess.run(
            [sys.executable, "-m", "pipelines", *command, "--processes", str(number)],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0 and "Warning" not in done.stderr, done.stderr
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_users(small_run, tmp_path):
    """Five times as many users: their rows in memory would take much more than what is added."""
    script = (
        "import resource, sys; from pathlib import Path; from pipelines.batch_recommend import Ask, write_slates; "
        "from pipelines.user_list import UserList; "
        "write_slates(Path(sys.argv[1]), UserList.open(Path(sys.argv[2])), Ask(k=50), Path(sys.argv[3]), {}); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    user = everybody(small_run)[0]
    peaks = []
    for num_users in (6_000, 30_000):
        users, out = tmp_path / f"{num_users}.txt", tmp_path / "out.parquet"
        users.write_text(f"{user}\n" * num_users)
        version = small_run / "export" / "repository" / "cascade" / "1"
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script, str(version), str(users), str(out)],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout.split()[-1]) / 1024)
    rows = pq.read_table(out).nbytes / 2**20
    assert rows > 30 and peaks[1] - peaks[0] < rows / 3, (rows, peaks)
