"""Days of the small run's test period, served in process."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def judged(small_run: Path, tmp_path_factory: pytest.TempPathFactory):
    """Days that the monitor judges; the run is a copy, for the reference is kept in it."""
    import shutil

    from pipelines.monitor.config import MonitorConfig
    from pipelines.monitor.judged_days import JudgedDays

    folder = tmp_path_factory.mktemp("monitor")
    run = shutil.copytree(small_run, folder / "run")
    return JudgedDays(run, folder / "stores", 200, MonitorConfig())
