"""One small synthetic world and its etl artifact, made once a test process; and a real Redis."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisDownError

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


@dataclass
class RedisServer:
    """A redis-server of our own, that keeps nothing on the disk."""

    port: int
    folder: Path
    password: str = ""
    process: subprocess.Popen | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def client(self, db: int = 0) -> Redis:
        return Redis(host="127.0.0.1", port=self.port, db=db, password=self.password or None)

    def start(self) -> None:
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        command += ["--save", "", "--appendonly", "no", *(["--requirepass", self.password] if self.password else [])]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        until = time.monotonic() + 30
        while True:
            try:
                with self.client() as client:
                    client.ping()
                return
            except RedisDownError:
                assert self.process.poll() is None and time.monotonic() < until, "redis-server did not start"
                time.sleep(0.02)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
            self.process = None


@pytest.fixture(scope="session")
def make_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """A password, or none, to a running server on a free port."""
    if shutil.which("redis-server") is None:
        reason = "no redis-server on the PATH; install the package redis-server"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    servers: list[RedisServer] = []

    def make(password: str = "") -> RedisServer:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        servers.append(RedisServer(port, tmp_path_factory.mktemp("redis"), password))
        servers[-1].start()
        return servers[-1]

    yield make
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def running_redis(make_redis) -> RedisServer:
    return make_redis()


@pytest.fixture
def redis_server(running_redis: RedisServer) -> RedisServer:
    """Running and empty."""
    if running_redis.process is None:
        running_redis.start()
    with running_redis.client() as client:
        client.flushall()
    return running_redis
