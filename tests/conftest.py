"""What every test shares: a quiet, reproducible process, the folder of real data and one small finished run."""

import fcntl
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import settings

# Before numpy, torch or dask is imported: one thread a test process, and the legacy dataframe that Merlin needs.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"
os.environ["DASK_DATAFRAME__QUERY_PLANNING"] = "False"

# No time is a test: a first call compiles its kernel.
settings.register_profile("cascade", deadline=None)
settings.load_profile("cascade")

REPOSITORY = Path(__file__).resolve().parents[1]

SMALL_RUN = {
    "data": {"synthetic": {"num_users": 150, "num_items": 80, "num_interactions": 2_500, "num_days": 120}},
    "etl": {"history_length": 10},
    "retrieval": {"max_epochs": 2, "batch_size": 256, "two_tower": {"embedding_dim": 16, "hidden_units": [32]}},
    "ranking": {
        "max_epochs": 1,
        "network": {"embedding_dim": 8, "dlrm": {"bottom_units": [16], "top_units": [32, 16]}},
    },
    "export": {"num_candidates": 20},
}
"""Configuration of `small_run`: a world with buyers, users who never buy, and items without a sale."""


@pytest.fixture(scope="session")
def cascade_data() -> Path:
    """The folder of real data sets: CASCADE_DATA, or shared/data beside the repository. For tests marked realdata."""
    return _data_folder()


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of SMALL_RUN through all stages, made once for all test processes. Never write into it."""
    base = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        base = base.parent  # the workers' own folders lie in the session's
    out = base / "small_run"
    with (base / "small_run.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (out / "done").exists():
            from pipelines.config import validated
            from pipelines.stages import run_stages

            if made := os.environ.get("CASCADE_SMALL_RUN"):  # while working on serving: only the export is made anew
                shutil.copytree(made, out, ignore=shutil.ignore_patterns("export", "serve", "done"))
            run_stages(validated(SMALL_RUN, "SMALL_RUN"), out, say=lambda line: None)
            (out / "done").touch()
    return out


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test marked realdata is skipped where the folder is missing, and fails there if CI is set."""
    if item.get_closest_marker("realdata") is None or _data_folder().is_dir():
        return
    reason = f"no real data: {_data_folder()} is not a folder; set CASCADE_DATA to the folder with the data sets"
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def _data_folder() -> Path:
    return Path(os.environ.get("CASCADE_DATA") or REPOSITORY.parent / "shared" / "data").resolve()
