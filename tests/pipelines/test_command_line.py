"""The command line as its user sees it: a process, its exit status and what it prints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.__main__ import command_line, main

STAGES = ("etl", "retrieval", "index", "ranking", "export")
COMMANDS = (
    *("demo", "init", "run", *STAGES, "serve", "recommend", "embeddings", "similar"),
    *("evaluate", "tune", "report", "profile", "synth", "keys"),
)


def cascade(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipelines", *arguments], cwd=folder, capture_output=True, text=True, timeout=300
    )


def failed(*arguments: str, folder: Path) -> str:
    """What a command says that must fail with a message and no traceback."""
    done = cascade(*arguments, folder=folder)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith(f"cascade {arguments[0]}: ") and "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr


def test_help_imports_nothing_heavy(tmp_path):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "pipelines", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0
    modules = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "argparse" in modules
    assert not modules & {"torch", "merlin", "nvtabular", "numpy", "pandas", "pyarrow", "faiss", "feast", "pydantic"}
    assert all(f"    {command}" in done.stdout for command in COMMANDS)


def test_every_command_explains_itself(capsys):
    for command in COMMANDS:
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0 and f"usage: cascade {command}" in capsys.readouterr().out


def test_without_a_command_the_help_is_shown(capsys):
    assert main([]) == 2 and "COMMAND" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense"], "invalid choice: 'nonsense'"),
        (["run"], "--out"),
        (["recommend"], "one of the arguments --users --all --users-from is required"),
        (["recommend", "--all", "--users", "a"], "--users: not allowed with argument --all"),
        (["embeddings", "people", "--out", "a.parquet"], "invalid choice: 'people'"),
        (["embeddings", "users"], "--out"),
        (["similar"], "--item"),
        (["tune", "serving", "--out", "x"], "invalid choice: 'serving'"),
        (["recommend", "--users", "a", "--k", "x"], "invalid int value: 'x'"),
        (["recommend", "--users", "a", "--seed", "1"], "recommend does not know --seed 1"),
        (["recommend", "--users", "a", "--url", "http://127.0.0.1:8001"], "must be host:port"),
        (["init", "stray"], "init does not know stray"),
    ],
)
def test_wrong_arguments_end_with_2(arguments, words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    shown = capsys.readouterr().err
    assert ended.value.code == 2 and words in shown and "Traceback" not in shown


def test_init_writes_a_file_that_says_what_to_fill_in_and_never_overwrites(tmp_path, capsys):
    file = tmp_path / "new" / "mine.toml"
    assert main(["init", "--out", str(file)]) == 0
    assert f"cascade run --config {file}" in capsys.readouterr().out
    file.write_text("mine")
    assert main(["init", "--out", str(file)]) == 1
    assert f"cascade init: {file} is there already" in capsys.readouterr().err and file.read_text() == "mine"


def test_what_init_writes_is_understood_by_run(tmp_path):
    assert cascade("init", folder=tmp_path).returncode == 0
    said = cascade("run", "--config", "cascade.toml", "--out", "mine", folder=tmp_path)
    assert said.returncode == 1
    assert "interactions.csv: there is no such file (data.tables.interactions.path = 'interactions.csv'" in said.stderr


def test_mistakes_in_the_configuration_end_with_1_and_one_line_each(tmp_path):
    (tmp_path / "bad.toml").write_text("[etl]\nhistory = 3\n[index]\nhnsw_links = 1\n")
    lines = failed("run", "--config", "bad.toml", "--out", "run", folder=tmp_path).splitlines()
    assert len(lines) == 2 and "bad.toml: unknown key etl.history; did you mean etl.history_length?" in lines[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["recommend", "--users", "a", "--local"], "no run is known here; give its folder: --run runs/NAME"),
        (["serve"], "no run is known here"),
        (["evaluate"], "no run is known here"),
        (["similar", "--item", "a"], "no run is known here"),
        (["embeddings", "users", "--out", "a.parquet"], "no run is known here"),
        (["similar", "--item", "a", "--run", "none"], "none: there is no such run; `cascade run --out none` makes one"),
        (["serve", "--out", "none"], "`cascade run --out none` writes it"),
        (["serve", "--run", "none"], "`cascade run --out none` writes it"),
        (["serve", "--run", "none", "--out", "other"], "--run none and --out other both name the run's folder"),
        (["evaluate", "--run", "none"], "`cascade run --out none` writes it"),
        (["evaluate", "--out", "none"], "`cascade run --out none` writes it"),
        (["recommend", "--users", "a", "--local", "--out", "none"], "`cascade run --out none` makes one"),
        (["recommend", "--users", "a", "--url", "127.0.0.1:9"], "start the server with `cascade serve`"),
        (["recommend", "--users", "", "--url", "127.0.0.1:9"], "--users must name at least one user"),
        (["recommend", "--users", "a", "--k", "0", "--url", "127.0.0.1:9"], "k row 0 must be 1..1000, got 0"),
        (["ranking", "--out", "none"], "run `etl` first"),
        (["run", "--config", "none.toml", "--out", "x"], "cascade init --out none.toml"),
    ],
)
def test_a_command_without_what_it_needs_says_what_to_do(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(f"cascade {arguments[0]}: ") and words in captured.err and captured.out == ""


def test_a_run_folder_that_is_a_file_is_an_error_that_names_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("taken").write_text("")
    assert main(["run", "--out", "taken"]) == 1
    assert "taken" in capsys.readouterr().err


def test_keys_lists_every_key_with_its_default(capsys):
    from pipelines.config import keys_of

    assert main(["keys"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown[::2]] == [f"--{name.replace('_', '-')}" for name, *_ in keys_of()]
    assert "--retrieval.two-tower.embedding-dim  (64)" in shown


def test_a_reader_that_hangs_up_is_no_error(tmp_path):
    command = f"{sys.executable} -m pipelines keys | head -n 1"
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("--") and done.stderr == ""


def test_the_parser_takes_options_in_full_only():
    options, rest = command_line().parse_known_args(["run", "--out", "x", "--conf", "y"])
    assert options.config is None and rest == ["--conf", "y"]


def test_without_config_a_run_folder_keeps_the_configuration_it_was_made_with(tmp_path, monkeypatch):
    from argparse import Namespace

    from pipelines import commands, report, stages
    from pipelines.config import load_config, save_config

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(report, "write_run_report", lambda folder: folder / report.REPORT)
    made_with = load_config(None, ["--seed", "7", "--retrieval.max-epochs", "2"])
    save_config(made_with, Path("mine") / stages.CONFIG_FILE)
    ran = []
    monkeypatch.setattr(stages, "run_stages", lambda config, *_, **__: ran.append(config))
    commands.run(Namespace(config=None, out=Path("mine"), only=None, overrides=["--etl.serve-state", "latest"]))
    assert (ran[0].seed, ran[0].retrieval.max_epochs, ran[0].etl.serve_state) == (7, 2, "latest")


def test_a_run_of_impressions_has_no_users_and_items_to_write_or_compare(tmp_path, monkeypatch, capsys):
    from pipelines.config import load_config, save_config
    from pipelines.stages import CONFIG_FILE

    monkeypatch.chdir(tmp_path)
    save_config(
        load_config(None, ["--data.adapter", "criteo", "--data.criteo.train", "logs"]), Path("clicks") / CONFIG_FILE
    )
    for words in (
        ["recommend", "--all", "--out", "a.parquet"],
        ["embeddings", "items", "--out", "a.parquet"],
        ["similar", "--item", "a"],
    ):
        assert main([*words, "--run", "clicks"]) == 1
        assert "clicks: the stage" in capsys.readouterr().err
    assert main(["tune", "retrieval", "--out", "clicks"]) == 1
    assert "does not apply: impressions have no users and items to propose" in capsys.readouterr().err


def test_only_what_goes_on_where_it_stopped_says_so(tmp_path, monkeypatch, capsys):
    from pipelines import commands

    def interrupted(_):
        raise KeyboardInterrupt

    for action, arguments, goes_on in [
        ("run", ["run", "--out", "x"], True),
        ("run", ["ranking", "--out", "x"], True),
        ("tune", ["tune", "retrieval", "--out", "x"], True),
        ("recommend", ["recommend", "--all", "--out", "x.parquet"], False),
    ]:
        monkeypatch.setattr(commands, action, interrupted)
        assert main(arguments) == 130
        assert ("goes on where it stopped" in capsys.readouterr().err) == goes_on
