"""On a GPU, cudf frames give what pandas frames give."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features import executor
from features.cluster import ClusterError, open_cluster
from features.config import ImpressionsConfig
from features.gpu import GpuError
from features.impressions import CRITEO_COLUMNS, impression_workflow
from features.partitions import ParquetParts


@pytest.fixture
def impressions(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    columns = {"label": pa.array(rng.integers(0, 2, 5_000), pa.int8())}
    for name in CRITEO_COLUMNS.continuous:
        columns[name] = pa.array(rng.integers(0, 1_000, 5_000), mask=rng.random(5_000) < 0.2)
    for name in CRITEO_COLUMNS.categorical:
        texts = [f"{value:08x}" for value in rng.zipf(1.3, 5_000) % 3_000]
        columns[name] = pa.array(texts, mask=rng.random(5_000) < 0.1)
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet", row_group_size=1_000)
    return tmp_path / "rows.parquet"


def encoded(rows: Path, form: str, folder: Path) -> pa.Table:
    source = ParquetParts.of([rows], rows_per_part=1_000)
    with open_cluster(form) as cluster:
        workflow = impression_workflow(ImpressionsConfig(min_frequency=3), CRITEO_COLUMNS, {}, folder / "vocabularies")
        executor.fit(workflow, source, cluster)
        executor.write_parts(workflow, source, folder / "out", cluster)
    return pq.read_table(folder / "out")


@pytest.mark.gpu
def test_cuda_gives_the_ids_and_numbers_of_the_processor(impressions: Path, tmp_path: Path) -> None:
    on_gpu, here = (encoded(impressions, form, tmp_path / form) for form in ("cuda", "threads"))
    for name in CRITEO_COLUMNS.categorical:
        assert on_gpu[name].to_pylist() == here[name].to_pylist(), name
    for name in CRITEO_COLUMNS.continuous:
        np.testing.assert_allclose(on_gpu[name].to_numpy(), here[name].to_numpy(), atol=1e-4, err_msg=name)


def test_without_a_gpu_cuda_is_refused_with_what_to_do() -> None:
    try:
        import cudf  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        with pytest.raises(GpuError, match=r"requirements-gpu\.lock"), open_cluster("cuda"):
            pass
    else:
        pytest.skip("there is a GPU here")


def test_the_forms_of_a_cluster_are_named() -> None:
    with pytest.raises(ClusterError, match="threads, threads:N, local:N, cuda or tcp://HOST:PORT"), open_cluster("gpu"):
        pass
