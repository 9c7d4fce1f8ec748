"""The artifacts of the small run."""

from collections.abc import Callable
from pathlib import Path

import pytest

from features.artifact import Artifact, open_artifact


@pytest.fixture(scope="session")
def opened(small_run: Path) -> Callable[[str], Artifact]:
    """Artifacts by stage."""
    return lambda stage: open_artifact(small_run / stage, stage)
