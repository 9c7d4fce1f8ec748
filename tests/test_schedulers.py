"""What deploy/cron and deploy/airflow call is what the command line has, and the script does what it says."""

from __future__ import annotations

import ast
import fcntl
import json
import os
import re
import stat
import subprocess
from pathlib import Path

import pytest

from pipelines.__main__ import command_line

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
SCRIPT, CRONTAB, DAG = (DEPLOY / name for name in ("cron/refresh.sh", "cron/crontab", "airflow/cascade_refresh.py"))
LOCKED, SUBSTITUTED = 75, "somewhere"


def calls(text: str) -> list[list[str]]:
    """Every call of cascade: its words, with a place for whatever the shell or Airflow puts there."""
    text = text.replace("\\\n", " ").replace('"${appends[@]}"', f"--append {SUBSTITUTED}")
    text = re.sub(r"\{\{.*?\}\}|\$\((?:[^()]|\n)*\)\"?(?= --)", SUBSTITUTED, text)
    found = re.findall(
        r"(?:\$cascade|^(?:LIVE=\$\()?cascade) ((?:deployments|monitor|refresh) [^|>&;\n)]*)", text, re.MULTILINE
    )
    return [re.sub(r"\$\w+", SUBSTITUTED, words).replace('"', "").split() for words in found]


def dag_strings() -> str:
    """The DAG's texts, one a line: Airflow is not here to run it."""
    tree = ast.parse(DAG.read_text())
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return "\n".join(text for text in texts if not text.startswith("An Airflow DAG"))


@pytest.mark.parametrize("where", ["cron", "airflow"])
def test_every_command_and_option_is_one(where):
    text = dag_strings() if where == "airflow" else re.sub(r"^#.*$", "", SCRIPT.read_text(), flags=re.MULTILINE)
    named = calls(text)
    assert {words[0] for words in named} == {"deployments", "monitor", "refresh"}
    for words in named:
        options, rest = command_line().parse_known_args(words)
        assert not rest, words
        if options.command == "refresh":
            assert options.append and options.to and options.deploy


def test_the_dag_looks_before_it_refreshes():
    tree = ast.parse(DAG.read_text())
    [order] = [node for node in ast.walk(tree) if isinstance(node, ast.BinOp) and isinstance(node.op, ast.RShift)]
    assert (ast.unparse(order.left), ast.unparse(order.right)) == ("monitor", "refresh")
    assigned = {
        node.targets[0].id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.Call)
    }
    for name in ("monitor", "refresh"):
        made = {keyword.arg: ast.unparse(keyword.value) for keyword in assigned[name].keywords}
        assert made["task_id"] == f"'{name}'" and made["bash_command"] == f"LIVE + {name.upper()}"


def test_the_crontab_calls_the_script():
    [line] = [line for line in CRONTAB.read_text().splitlines() if re.match(r"\d", line)]
    called, *words = line.split()[5:]
    assert called.endswith("deploy/cron/refresh.sh") and len(words) == 3
    assert SCRIPT.stat().st_mode & stat.S_IXUSR


@pytest.fixture
def night(tmp_path: Path):
    """A function that runs the script beside a program that stands for cascade and notes how it is called."""
    fake, runs, logs, live = (tmp_path / name for name in ("cascade", "runs", "logs", "live"))
    fake.write_text(
        f'#!/bin/bash\necho "$@" >>{tmp_path}/called\n'
        'case $1 in deployments) echo \'{"live": {"stable": 1}, "releases": {"1": {"run": "\'$LIVE\'"}}}\' ;;\n'
        "monitor) exit ${MONITOR:-0} ;; refresh) echo told by refresh; exit ${REFRESH:-0} ;; esac\n"
    )
    fake.chmod(0o755)
    live.mkdir()
    for day in ("2026-11-26", "2026-11-27", "2026-11-28"):
        (logs / day).mkdir(parents=True)

    def run(known: list[str], **environment: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        (tmp_path / "called").unlink(missing_ok=True)
        (live / "config.json").write_text(json.dumps({"data": {"append": [str(logs / day) for day in known]}}))
        done = subprocess.run(
            [str(SCRIPT), "served", str(logs), str(runs)],
            env=os.environ | {"CASCADE": str(fake), "LIVE": str(live)} | environment,
            capture_output=True,
            text=True,
            timeout=30,
        )
        return done, (tmp_path / "called").read_text().splitlines() if (tmp_path / "called").exists() else []

    return run


def test_the_script_appends_every_day_that_the_live_run_lacks(night, tmp_path):
    done, called = night(["2026-11-26"], MONITOR="3")
    assert (done.returncode, done.stdout) == (0, ""), done
    assert [words.split()[0] for words in called] == ["deployments", "monitor", "refresh"]
    days = [f"--append {tmp_path}/logs/2026-11-{day}" for day in (27, 28)]
    assert called[-1] == f"refresh {tmp_path}/live {' '.join(days)} --out {tmp_path}/runs/2026-11-28 --to served"
    log = (tmp_path / "runs" / "refresh.log").read_text()
    assert "told by refresh" in log and "cascade monitor ended with 3" in log


def test_the_script_is_quiet_when_nothing_came_and_prints_what_cron_mails_when_refused(night):
    done, called = night(["2026-11-26", "2026-11-27", "2026-11-28"])
    assert (done.returncode, done.stdout) == (0, "") and [words.split()[0] for words in called] == ["deployments"]
    done, _ = night([], REFRESH="1")
    assert done.returncode == 1 and "told by refresh" in done.stdout


def test_the_script_lets_a_refresh_that_is_at_work_finish(night, tmp_path):
    (tmp_path / "runs").mkdir()
    with (tmp_path / "runs" / "refresh.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done, called = night([])
    assert done.returncode == LOCKED and not called
