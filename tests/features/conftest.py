"""One small synthetic world and its etl artifact, made once a test process."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from features.artifact import Artifact, open_artifact, writing
from features.etl import EtlConfig, run
from features.logs import Logs
from features.logs.append import in_id_order
from features.logs.synthetic import SyntheticConfig, synthetic_logs

CONFIG = EtlConfig(history_length=10)


@pytest.fixture(scope="session")
def logs() -> Logs:
    return synthetic_logs(SyntheticConfig(num_users=200, num_items=100, num_interactions=3_000))


@pytest.fixture(scope="session")
def make_etl(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Artifact]:
    """Logs, and optionally a config, to an opened etl artifact."""

    def make(logs: Logs, config: EtlConfig = CONFIG) -> Artifact:
        path = tmp_path_factory.mktemp("run") / "etl"
        return etl_artifact(path, in_id_order(logs), config)

    return make


@pytest.fixture(scope="session")
def etl(make_etl: Callable[..., Artifact], logs: Logs) -> Artifact:
    return make_etl(logs)


def etl_artifact(path: Path, logs: Logs, config: EtlConfig) -> Artifact:
    with writing(path, "etl", asdict(config), 0, {}) as writer:
        run(config, logs, writer)
    return open_artifact(path, "etl")
