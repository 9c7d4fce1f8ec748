"""What every test shares: a quiet, reproducible process and the folder of real data."""

import os
from pathlib import Path

import pytest

# Before numpy, torch or dask is imported: one thread a test process, and the legacy dataframe that Merlin needs.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"
os.environ["DASK_DATAFRAME__QUERY_PLANNING"] = "False"

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def cascade_data() -> Path:
    """The folder of real data sets: CASCADE_DATA, or shared/data beside the repository. For tests marked realdata."""
    return _data_folder()


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
