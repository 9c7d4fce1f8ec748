"""A run is refreshed with logs that came later: it goes live if it is as good, and what is live stays whole if not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from ensemble.rollout import prepared_repository
from ensemble.rollout_state import read_state
from features.artifact import file_sha256, open_artifact
from features.drift import Drift
from pipelines import etl_stage
from pipelines.__main__ import main
from pipelines.config import load_saved_config
from pipelines.refresh import refresh as module
from pipelines.refresh.record import FILE, Record, RefreshError
from pipelines.refresh.refresh import refresh
from pipelines.stages import CONFIG_FILE
from ranking.shared_user_side import SharedUserSide


def served(run: Path) -> Path:
    """The run as if `cascade serve` had served it."""
    prepared_repository(run, run / "serve", load_saved_config(run / CONFIG_FILE).serving)
    return run / "serve"


def bytes_of(run: Path) -> dict[str, str]:
    files = [path for path in run.rglob("*") if path.is_file() and "serve" not in path.relative_to(run).parts[:1]]
    return {path.relative_to(run).as_posix(): file_sha256(path) for path in files}


def live_run(serve_folder: Path) -> str:
    state = read_state(serve_folder)
    assert state is not None
    return state.releases[state.live.stable]["run"]


@pytest.fixture
def run(made, tmp_path) -> Path:
    return Path(shutil.copytree(made.run, tmp_path / "run"))


@pytest.fixture(scope="module")
def refreshed(made, tmp_path_factory) -> tuple[Path, Path, Record, list[str], dict[str, str]]:
    """The served run, the new one that went live in its place, its record, what was said, and the bytes of before."""
    folder = tmp_path_factory.mktemp("refresh")
    run, lines = Path(shutil.copytree(made.run, folder / "run")), []
    serve_folder, before = served(run), bytes_of(run)
    record = refresh(run, [str(made.later)], folder / "new", serve_folder, say=lines.append)
    return run, folder / "new", record, lines, before


def test_really_new_logs_go_live_and_the_run_stays_as_it_was_to_the_byte(refreshed):
    run, new, record, _, before = refreshed
    assert record.state == "deployed" and record.deployed is not None
    assert live_run(run / "serve") == str(new.resolve())
    assert bytes_of(run) == before
    assert not [path.name for path in (*new.iterdir(), *new.parent.iterdir()) if path.name.startswith(".")]


def test_what_goes_live_knows_everything_up_to_now_with_the_models_that_were_measured(refreshed):
    _, new, record, lines, _ = refreshed
    etl = open_artifact(new / "etl", "etl")
    end = pq.read_table(new / "etl" / "events.parquet")["timestamp"].to_pylist()[-1]
    assert etl.manifest["config"]["serve_state"] == "latest" and etl.metrics["as_of"] == end + 1
    assert record.deployed["as_of"] == end + 1 and record.measurements["moment"] == etl.metrics["test_from"] < end
    assert sum("only the moment of serving changed" in line for line in lines) == 2


def test_the_record_says_what_was_measured_and_what_was_warm(refreshed):
    run, new, record, _, _ = refreshed
    written = json.loads((new / FILE).read_text())
    assert written["state"] == "deployed" and written["origin"] == str(run.resolve())
    verdicts = {guard["name"].partition(":")[0]: guard["verdict"] for guard in written["guards"]}
    assert verdicts == {
        "drift": "passed", "quality": "passed", "calibration": "not measured", "coverage": "passed", "latency": "passed"
    }  # fmt: skip
    warm = {name: how for name, how in written["warm_start"].items() if name.startswith("two-tower")}
    assert len(warm) == 3 and all(how.startswith("from the weights before") for how in warm.values())
    assert "held-out" in written["warm_start"]["ranker"]
    assert record.measurements["num_users"] > 20


def test_done_again_it_says_so_and_changes_nothing(refreshed, made):
    run, new, _, _, _ = refreshed
    state, bytes_before, lines = read_state(run / "serve"), bytes_of(new), []
    record = refresh(run, [str(made.later)], new, run / "serve", say=lines.append)
    assert record.state == "deployed" and any("was deployed already" in line for line in lines)
    assert read_state(run / "serve") == state and bytes_of(new) == bytes_before


@pytest.mark.slow
def test_the_next_night_starts_from_a_run_that_went_live(refreshed, made, tmp_path):
    run, new, _, _, _ = refreshed
    log = pq.read_table(made.later / "log.parquet")
    day = 86_400
    shifted = log.set_column(2, "timestamp", pc.add(log["timestamp"], 30 * day))
    pq.write_table(shifted.slice(0, 150), tmp_path / "log.parquet")
    record = refresh(
        new, [str(tmp_path / "log.parquet")], tmp_path / "newer", None, ["--refresh.max-quality-loss=0.99"]
    )
    assert record.state == "passed"
    first, second = (open_artifact(one / "etl", "etl").metrics for one in (new, tmp_path / "newer"))
    assert record.measurements["moment"] == second["test_from"] >= first["test_from"]
    assert live_run(run / "serve") == str(new.resolve()), "nothing was to be deployed"


def test_what_is_worse_is_refused_and_another_limit_judges_the_same_numbers(made, run, tmp_path, monkeypatch):
    serve_folder, new = served(run), tmp_path / "new"
    before, real = bytes_of(run), SharedUserSide.score_candidates
    with monkeypatch.context() as patch:
        patch.setattr(SharedUserSide, "score_candidates", lambda *words: -real(*words))  # the worst candidates first
        with pytest.raises(RefreshError, match=r"(?s)does not go live.*quality: slate ndcg@10: failed"):
            refresh(run, [str(made.later)], new, serve_folder)
    assert live_run(serve_folder) == str(run.resolve()) and bytes_of(run) == before
    written = json.loads((new / FILE).read_text())
    assert written["state"] == "refused" and written["deployed"] is None

    def fails(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr("pipelines.refresh.compared_slates.compared_slates", fails)
    limits = ("--refresh.max-quality-loss=0.99", "--refresh.min-coverage-ratio=0")
    lines: list[str] = []
    assert refresh(run, [str(made.later)], new, serve_folder, limits, lines.append).state == "deployed"
    assert not any("the training before" in line for line in lines)
    assert live_run(serve_folder) == str(new.resolve())


@pytest.mark.parametrize(
    "where", ["measured", *(pytest.param(one, marks=pytest.mark.slow) for one in ("run_stages", "went_live"))]
)
def test_an_interrupted_refresh_goes_on_where_it_stopped(refreshed, made, run, tmp_path, monkeypatch, where):
    serve_folder, new = served(run), tmp_path / "new"
    with monkeypatch.context() as patch:
        real = getattr(module, where)
        patch.setattr(module, where, lambda *words, **more: _stopped(where, real, words, more))
        with pytest.raises(KeyboardInterrupt):
            refresh(run, [str(made.later)], new, serve_folder)
    assert live_run(serve_folder) == str(run.resolve())
    lines: list[str] = []
    assert refresh(run, [str(made.later)], new, serve_folder, say=lines.append).state == "deployed"
    if where != "run_stages":
        assert not any("starts from the weights" in line for line in lines), "nothing is trained twice"
    for stage in ("etl", "retrieval", "index", "ranking", "export"):
        found, whole = (open_artifact(one / stage, stage).content_hash for one in (new, refreshed[1]))
        assert found == whole


def _stopped(where, real, words, more):
    if where == "run_stages":  # behind the first stage
        real(*words, "etl", **more)
    raise KeyboardInterrupt


@pytest.mark.slow
def test_two_nights_at_once_are_what_one_log_of_both_is(refreshed, made, run, tmp_path):
    log = pq.read_table(made.later / "log.parquet")
    for name, part in (("monday", log.slice(0, 150)), ("tuesday", log.slice(150))):
        pq.write_table(part, tmp_path / f"{name}.parquet")
    nights = [str(tmp_path / f"{name}.parquet") for name in ("monday", "tuesday")]
    assert refresh(run, nights, tmp_path / "new", None).state == "passed"
    both, one = (open_artifact(new / "etl", "etl").metrics for new in (tmp_path / "new", refreshed[1]))
    assert both["num_interactions"] == one["num_interactions"] and both["num_items"] == one["num_items"]
    with pytest.raises(RefreshError, match="is the refresh of"):
        refresh(run, nights[:1], tmp_path / "new", None)


def test_logs_of_which_no_features_can_be_made_are_refused_by_the_guard(made, run, tmp_path, monkeypatch):
    found = [Drift(severity="error", table="items", column="section", check="type", expected="a", came="b", action="c")]
    monkeypatch.setattr("features.drift.schema_drift", lambda *_: found)
    assert issubclass(etl_stage.DriftError, Exception)
    with pytest.raises(RefreshError, match=r"drift: failed.*items.section type"):
        refresh(run, [str(made.later)], tmp_path / "new", None)
    written = json.loads((tmp_path / "new" / FILE).read_text())
    assert [guard["verdict"] for guard in written["guards"]] == ["failed", *["not measured"] * 4]


def test_what_passed_is_judged_again_when_something_else_is_asked_for(refreshed, made, run, tmp_path):
    new = Path(shutil.copytree(refreshed[1], tmp_path / "new"))
    document = json.loads((new / FILE).read_text())
    (new / FILE).write_text(json.dumps(document | {"state": "passed", "deployed": None, "origin": str(run.resolve())}))
    with pytest.raises(RefreshError, match="latency: failed"):
        refresh(run, [str(made.later)], new, served(run), ["--refresh.max-latency-ratio=0.001"])
    assert live_run(run / "serve") == str(run.resolve())


def test_it_says_what_is_wrong_with_what_it_is_given(refreshed, made, run, tmp_path):
    later = [str(made.later)]
    _, new, _, _, _ = refreshed
    with pytest.raises(RefreshError, match="there is no such run"):
        refresh(tmp_path / "nowhere", later, tmp_path / "out", None)
    with pytest.raises(RefreshError, match=r"is part of .* already"):
        refresh(new, later, tmp_path / "out", None)
    shutil.copytree(made.later, tmp_path / "copied")
    with pytest.raises(RefreshError, match="already under another name"):
        refresh(new, [str(tmp_path / "copied")], tmp_path / "out", None)
    pq.write_table(pq.read_table(made.later.parent / "first" / "log.parquet").slice(100, 900), tmp_path / "log.parquet")
    with pytest.raises(RefreshError, match="900 of 900 interactions are from before"):
        refresh(run, [str(tmp_path / "log.parquet")], tmp_path / "out", None)
    (tmp_path / "other").mkdir()
    with pytest.raises(RefreshError, match="no refresh made it"):
        refresh(run, later, tmp_path / "other", None)
    with pytest.raises(RefreshError, match="is the refresh of"):
        refresh(run, later, new, None)
    with pytest.raises(RefreshError, match="nothing was ever served there"):
        refresh(run, later, tmp_path / "out", run / "serve")
    with pytest.raises(RefreshError, match="is not what is live"):
        refresh(run, later, tmp_path / "out", refreshed[0] / "serve")
    assert not (tmp_path / "out").exists()


def test_the_command_ends_with_1_where_it_refuses_and_needs_a_served_run(
    made, run, small_run, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    words = ["refresh", str(run), "--append", str(made.later), "--out", "new"]
    assert main(words) == 1
    assert "no served run is known here" in capsys.readouterr().err
    assert main(["refresh", str(small_run), "--append", "later", "--out", "new", "--no-deploy"]) == 1
    assert "a made world" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
