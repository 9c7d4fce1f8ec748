"""Every ranker by configuration alone: trained, exported and served, for candidates and for impressions."""

import copy
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ensemble.client import RecommendClient
from ensemble.onnx_model import OnnxModel
from ensemble.pipeline import Pipeline
from ensemble.request import Request
from ensemble.server import ServingConfig, TritonServer
from features.artifact import open_artifact
from features.list_column import matrix_of
from pipelines.config import CascadeConfig, validated
from pipelines.stages import run_stages
from ranking.networks import NETWORKS

MODELS = sorted(NETWORKS)
CLICKS = {
    "data": {"adapter": "synthetic_clicks", "synthetic_clicks": {"num_impressions": 3_000, "num_users": 60}},
    "ranking": {"clicks": {"max_epochs": 1}, "network": {"embedding_dim": 4}},
}


def with_model(document: dict, model: str) -> CascadeConfig:
    document = copy.deepcopy(document)
    document["ranking"]["network"]["model"] = model
    return validated(document, "test")


@pytest.fixture(scope="module")
def served(small_run: Path, tmp_path_factory: pytest.TempPathFactory):
    """Model -> folder of a run of SMALL_RUN with that ranker, made on demand."""
    from tests.conftest import SMALL_RUN

    made: dict[str, Path] = {}

    def of(model: str) -> Path:
        if model not in made:
            out = tmp_path_factory.mktemp(model) / "run"
            shutil.copytree(small_run, out)
            run_stages(with_model(SMALL_RUN, model), out, say=lambda line: None)
            made[model] = out
        return made[model]

    return of


def column(table: pa.Table, name: str) -> np.ndarray:
    is_list = pa.types.is_fixed_size_list(table.schema.field(name).type)
    return matrix_of(table[name]) if is_list else table[name].to_numpy()


def scores(run: Path, users: list[str]) -> np.ndarray:
    reply = Pipeline.load(run / "export" / "repository" / "cascade" / "1").recommend(Request.of(users))
    assert (reply.item_ids != "").all()
    return reply.scores


@pytest.mark.parametrize("model", MODELS)
def test_one_key_switches_the_ranker_of_candidates(served, small_run: Path, model: str):
    users = pq.read_table(small_run / "etl/users.parquet", columns=["raw_id"])["raw_id"].to_pylist()[:20]
    run = served(model)
    assert open_artifact(run / "ranking", "ranking").manifest["config"]["network"]["model"] == model
    for stage in ("etl", "retrieval", "index"):  # only what comes behind the ranker was made anew
        assert open_artifact(run / stage, stage).content_hash == open_artifact(small_run / stage, stage).content_hash
    assert np.isfinite(scores(run, users)).all()


@pytest.mark.slow
@pytest.mark.triton
def test_triton_serves_another_ranker_as_the_process_does(served, small_run: Path, tmp_path: Path):
    users = pq.read_table(small_run / "etl/users.parquet", columns=["raw_id"])["raw_id"].to_pylist()[:20]
    run = served("dcn_v2")
    ports = ServingConfig(http_port=0, grpc_port=0, metrics_port=0, ready_timeout_seconds=180)
    with (
        TritonServer(run / "export" / "repository", tmp_path / "serve", ports) as server,
        RecommendClient(server.grpc_url, timeout_seconds=60) as client,
    ):
        np.testing.assert_array_equal(client.recommend(users).scores, scores(run, users))


@pytest.mark.parametrize("model", MODELS)
def test_one_key_switches_the_ranker_of_impressions(tmp_path: Path, model: str):
    artifacts = run_stages(with_model(CLICKS, model), tmp_path, say=lambda line: None)
    ranking = artifacts["ranking"]
    assert ranking.manifest["config"]["network"]["model"] == model
    exported = OnnxModel(ranking.file("ranker.onnx"), output="probability")
    table = pq.read_table(artifacts["etl"].files("examples/test/")[0])
    given = {name: column(table, name) for name in exported.inputs}
    probability_N = exported.run(given)
    assert probability_N.shape == (len(table),) and ((probability_N > 0) & (probability_N < 1)).all()
