"""Threads, processes and a remote scheduler give the same bytes; a worker that dies costs no row and doubles none."""

import os
import signal
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from merlin.schema import ColumnSchema, Schema, Tags
from nvtabular import Workflow
from nvtabular.ops import AddTags

from features.artifact import Artifact, open_artifact, writing
from features.cluster import Cluster, ClusterError, open_cluster
from features.config import EtlConfig
from features.etl import run
from features.executor import write_parts
from features.logs import Logs
from features.logs.append import in_id_order
from features.partitions import TableParts


def etl_on(folder: Path, logs: Logs, cluster: Cluster) -> Artifact:
    with writing(folder / "etl", "etl", {}, 0, {}) as writer:
        run(EtlConfig(history_length=5), in_id_order(logs), writer, cluster)
    return open_artifact(folder / "etl", "etl")


@pytest.mark.parametrize("form", ["threads:2", pytest.param("local:2", marks=pytest.mark.slow)])
def test_every_cluster_gives_the_same_content_hash(
    form: str, logs: Logs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("features.partitions.ROWS_PER_PART", 300)
    one_thread = etl_on(tmp_path / "one", logs, Cluster())
    with open_cluster(form) as cluster:
        other = etl_on(tmp_path / "other", logs, cluster)
    assert len(other.files("examples/train/")) > 4, "there is something to share out"
    assert other.content_hash == one_thread.content_hash


def test_a_scheduler_elsewhere_is_used_by_its_address(logs: Logs, tmp_path: Path) -> None:
    with open_cluster("local:1") as local:
        address = local.client.scheduler.address
        with open_cluster(address) as cluster:
            assert etl_on(tmp_path, logs, cluster).metrics["num_users"] == 200


def test_a_worker_killed_in_mid_run_loses_and_doubles_no_row(tmp_path: Path) -> None:
    table = pa.table({"row": list(range(60_000))})
    source = TableParts(table, rows_per_part=100)
    with open_cluster("local:2") as cluster:
        workflow = Workflow(["row"] >> AddTags([Tags.ID])).fit_schema(_schema())
        victim = next(iter(cluster.client.run(os.getpid).values()))
        killer = threading.Thread(target=_kill_when_begun, args=(victim, tmp_path))
        killer.start()
        written = write_parts(workflow, source, tmp_path, cluster)
        killer.join()
        assert victim not in cluster.client.run(os.getpid).values(), "it was killed"
    files = sorted(tmp_path.glob("*.parquet"))
    assert [file.name for file in files] == list(written) and sum(written.values()) == 60_000
    assert pa.concat_tables([pq.read_table(file) for file in files])["row"].to_pylist() == list(range(60_000))


def _schema():
    return Schema([ColumnSchema("row", dtype="int64")])


def _kill_when_begun(pid: int, folder: Path) -> None:
    while len(list(folder.glob("*.parquet"))) < 5:
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("form", ["threads:0", "local", "local:0", "yarn", "tcp://nowhere", "cuda:1", ""])
def test_a_cluster_that_does_not_exist_is_refused(form: str) -> None:
    with pytest.raises(ClusterError, match="--cluster must be"), open_cluster(form):
        pass


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ClusterError, match="no Dask scheduler answers there"), open_cluster("tcp://127.0.0.1:9"):
        pass
