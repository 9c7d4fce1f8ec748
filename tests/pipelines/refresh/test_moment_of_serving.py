"""Going live changes up to which moment serving knows everybody, and nothing that was learned."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipelines.config import load_saved_config
from pipelines.stages import CONFIG_FILE, STAGE_NAMES, run_stages

TAKEN_OVER = "only the moment of serving changed"


def content_hashes(run: Path) -> dict[str, str]:
    return {name: json.loads((run / name / "manifest.json").read_text())["content_hash"] for name in STAGE_NAMES}


def staged(run: Path, origin: Path, *words: str) -> list[str]:
    """Run all stages with the configuration of another run and some words; what was said."""
    lines: list[str] = []
    run_stages(load_saved_config(origin / CONFIG_FILE, words), run, say=lines.append)
    return lines


@pytest.fixture(scope="module")
def live(made, tmp_path_factory) -> tuple[Path, list[str]]:
    """The run once more with the whole log, in its folder, and what was said."""
    run = Path(shutil.copytree(made.run, tmp_path_factory.mktemp("live") / "run"))
    return run, staged(run, made.run, "--etl.serve-state=latest")


def test_the_models_that_were_measured_go_live_as_if_they_had_been_trained_for_it(made, live, tmp_path):
    run, said = live
    assert sum(TAKEN_OVER in line for line in said) == 2, "the two-tower model and the ranker"
    trained_anew = staged(tmp_path / "run", made.run, "--etl.serve-state=latest")
    assert not any(TAKEN_OVER in line for line in trained_anew)
    assert content_hashes(run) == content_hashes(tmp_path / "run")
    assert content_hashes(run)["export"] != content_hashes(made.run)["export"]


def test_and_back_again(made, live, tmp_path):
    run = Path(shutil.copytree(live[0], tmp_path / "run"))
    assert sum(TAKEN_OVER in line for line in staged(run, made.run)) == 2
    assert content_hashes(run) == content_hashes(made.run)


@pytest.mark.slow
def test_with_another_setting_the_models_are_trained_anew(made, live, tmp_path):
    run = Path(shutil.copytree(live[0], tmp_path / "run"))
    said = staged(run, made.run, "--retrieval.learning-rate=0.004", "--ranking.learning-rate=0.002")
    assert not any(TAKEN_OVER in line for line in said)
