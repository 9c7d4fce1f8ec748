"""The compact form of an exported ranker: wired to the configuration, held to the trained one, refused if it is off."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from features.onnx_compact import load
from features.onnx_export import export_onnx
from ranking.compact import CompactLossError, compact, list_auc
from ranking.config import CompactConfig

NUM_ROWS, NUM_IDS = 400, 100


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.wide, self.last = nn.Embedding(NUM_IDS, 32), nn.Linear(32, 256), nn.Linear(256, 1)

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.last(torch.relu(self.wide(self.table(batch["id"])))).squeeze(-1)


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    module, path = Model().eval(), tmp_path / "ranker.onnx"
    axes = {"id": {0: "n"}, "score": {0: "n"}}
    export_onnx(module, module, {"id": torch.arange(3)}, axes, "score", path)
    return path


def feeds(seed: int) -> list[dict[str, np.ndarray]]:
    return [{"id": np.random.default_rng(seed).integers(0, NUM_IDS, NUM_ROWS)}]


def test_the_form_takes_the_files_place_and_its_costs_are_told(exported):
    before = exported.stat().st_size
    config = CompactConfig(tables="int8", layers="int8")
    reached = compact(config, exported, feeds(0), feeds(1), lambda scores: 0.7)
    assert reached["auc_fp32"] == reached["auc_compact"] == 0.7
    assert exported.stat().st_size < 0.5 * before
    assert reached["bytes_compact"] < 0.5 * reached["bytes_fp32"]
    kinds = {node.op_type for node in load(exported).graph.node}
    assert "MatMulIntegerToFloat" in kinds


@pytest.mark.parametrize("compact_auc", [0.6994, float("nan")])
def test_a_form_that_ranks_worse_than_allowed_is_refused_and_the_file_stays(exported, compact_auc):
    before, said = exported.read_bytes(), iter([0.7, compact_auc])
    with pytest.raises(CompactLossError, match=r"max_auc_loss allows 0.0005.*fp32"):
        compact(CompactConfig(layers="int8"), exported, feeds(0), feeds(1), lambda scores: next(said))
    assert exported.read_bytes() == before
    said = iter([0.7, 0.6996])
    compact(CompactConfig(layers="int8"), exported, feeds(0), feeds(1), lambda scores: next(said))
    assert exported.read_bytes() != before


def test_what_is_compared_are_the_scores_of_both_forms(exported):
    seen = []
    config = CompactConfig(tables="int8", layers="int8")
    compact(config, exported, feeds(0), feeds(1), lambda scores: seen.append(np.concatenate(scores)) or 0.5)
    module = Model().eval()
    with torch.no_grad():
        expected = module({"id": torch.from_numpy(feeds(1)[0]["id"])}).numpy()
    np.testing.assert_allclose(seen[0], expected, atol=1e-5)
    assert 0 < np.abs(seen[1] - expected).max() < 0.05 * np.abs(expected).max()


def test_auc_within_lists_is_counted_by_pairs():
    score = np.array([[3.0, 2.0, 1.0, 9.0], [1.0, 1.0, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0]])
    taken = np.array([[0, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]])
    shown = np.array([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1]])
    np.testing.assert_allclose(list_auc(score, taken, shown), [0, (0.5 + 1 + 1) / 3, np.nan])


def test_a_run_serves_the_form_of_its_configuration_and_64_users_get_what_each_gets_alone(small_run, tmp_path):
    import pyarrow.parquet as pq

    from ensemble.pipeline import Pipeline
    from ensemble.request import Request
    from pipelines.config import load_saved_config
    from pipelines.stages import run_stages

    out = tmp_path / "run"
    shutil.copytree(small_run, out)
    words = ["--ranking.compact.tables", "int8", "--ranking.compact.layers", "int8"]
    wide = ["--ranking.network.dlrm.top-units", "[256, 64]", "--ranking.compact.max-auc-loss", "0.2"]
    config = load_saved_config(out / "config.json", [*words, *wide])
    for stage in ("ranking", "export"):
        run_stages(config, out, stage, say=lambda line: None)
    told = json.loads((out / "ranking" / "manifest.json").read_text())["metrics"]["compact"]
    assert told["bytes_compact"] < told["bytes_fp32"] and told["auc_fp32"] > 0.4
    version = out / "export" / "repository" / "cascade" / "1"
    kinds = {node.op_type for node in load(version / "ensemble" / "ranker.onnx").graph.node}
    assert "MatMulIntegerToFloat" in kinds
    pipeline = Pipeline.load(version)
    users = pq.read_table(out / "etl" / "users.parquet", columns=["raw_id"])["raw_id"].to_pylist()[:64]
    together = pipeline.recommend(Request.of(users, 10))
    for row, user in enumerate(users):
        alone = pipeline.recommend(Request.of([user], 10))
        assert alone.item_ids[0].tolist() == together.item_ids[row].tolist()
        assert np.array_equal(alone.scores[0], together.scores[row])
