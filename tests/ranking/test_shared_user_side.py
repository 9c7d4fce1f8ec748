"""The ranker as it serves, the user's side computed once: against the ranker that computes every pair by itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from merlin.schema import ColumnSchema, Schema, Tags

from features.onnx_compact import input_ranges, load, with_compact_tables, with_int8_layers
from ranking.config import DcnV2Config, DlrmConfig, MlpConfig, NetworkConfig
from ranking.export import example_batch, export_ranker
from ranking.networks.dcn_v2 import LowRankCross
from ranking.pair_features import RETRIEVAL_SCORE, TWO_TOWER_SCORE, ranker_schema
from ranking.ranker import Ranker
from ranking.shared_user_side import SharedUserSide, Unsplit

SOURCES = ["two_tower", "popularity"]
HISTORY_LENGTH = 50
SMALL = NetworkConfig(embedding_dim=8, dlrm=DlrmConfig(bottom_units=(16,), top_units=(32, 16)))
VARIANTS = {
    "dlrm": SMALL,
    "dlrm, pooled scalars": replace(SMALL, dlrm=replace(SMALL.dlrm, pooled_scalars=True)),
    "dcn_v2": replace(SMALL, model="dcn_v2", dcn_v2=DcnV2Config(deep_units=(24, 8), num_layers=3)),
    "dcn_v2, parallel": replace(SMALL, model="dcn_v2", dcn_v2=DcnV2Config(structure="parallel", deep_units=(24,))),
    "dcn_v2, low rank": replace(SMALL, model="dcn_v2", dcn_v2=DcnV2Config(rank=4, deep_units=(64, 8))),
    "mlp": replace(SMALL, model="mlp", mlp=MlpConfig(units=(32, 16))),
    "fm": replace(SMALL, model="fm"),
}
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def column(name: str, kind: Tags, *tags: Tags, num_ids: int = 0, length: int = 0) -> ColumnSchema:
    told: dict[str, Any] = {"tags": [kind, *tags]}
    if num_ids:
        told["properties"] = {"domain": {"min": 0, "max": num_ids - 1, "name": name}}
    if length:
        told |= {"dims": (None, length), "is_list": True}
    return ColumnSchema(name, dtype="int64" if num_ids else "float32", **told)


def etl_schema(with_user: bool = True) -> Schema:
    """Numbers, categories, lists and ready-made vectors, of users and of items in turn."""
    columns = [
        column("item_price", Tags.CONTINUOUS, Tags.ITEM),
        column("item_kind", Tags.CATEGORICAL, Tags.ITEM, num_ids=40),
        column("item_words", Tags.CATEGORICAL, Tags.ITEM, num_ids=60, length=4),
        column("item_text", Tags.EMBEDDING, Tags.ITEM, length=6),
    ]
    of_user = [
        column("user_age", Tags.CONTINUOUS, Tags.USER),
        column("user_club", Tags.CATEGORICAL, Tags.USER, num_ids=30),
        column("user_past", Tags.CATEGORICAL, Tags.USER, num_ids=60, length=HISTORY_LENGTH),
        column("user_town", Tags.CATEGORICAL, Tags.USER, num_ids=24),
    ]
    return Schema([one for pair in zip(of_user, columns, strict=True) for one in pair] if with_user else columns)


def made(config: NetworkConfig, schema: Schema) -> Ranker:
    """A ranker with random weights, also where it starts with zeros."""
    torch.manual_seed(3)
    model = Ranker(ranker_schema(schema, SOURCES), config).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    scores = {name: torch.randn(50) * 3 + 1 for name in (RETRIEVAL_SCORE, TWO_TOWER_SCORE)}
    model.set_score_scale(scores)
    return model


@torch.no_grad()
@every_variant
@pytest.mark.parametrize("with_user", [True, False])
@pytest.mark.parametrize(("num_users", "num_candidates"), [(1, 1), (1, 9), (5, 7)])
def test_the_scores_are_those_of_the_ranker(variant, with_user, num_users, num_candidates):
    schema = etl_schema(with_user)
    model = made(VARIANTS[variant], schema)
    batch = example_batch(schema, SOURCES, num_users, num_candidates)
    expected = model.score_candidates(batch)
    found = SharedUserSide(model).eval().score_candidates(batch)
    assert found.shape == (num_users, num_candidates)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_every_network_but_the_low_rank_crosses_has_a_form_of_its_own():
    for variant, config in VARIANTS.items():
        model = made(config, etl_schema())
        is_low_rank = isinstance(getattr(model.network, "cross", None), LowRankCross)
        assert isinstance(SharedUserSide(model).network, Unsplit) == is_low_rank, variant


@pytest.mark.parametrize("num_users", [2, 64])
@every_variant
def test_a_user_scores_the_same_bit_for_bit_whoever_else_is_asked_for_in_every_form(variant, num_users, tmp_path):
    import onnxruntime

    schema = etl_schema()
    config = replace(VARIANTS[variant], embedding_dim=32, dlrm=DlrmConfig(bottom_units=(64,), top_units=(256, 64)))
    config = replace(config, mlp=MlpConfig(units=(256, 64)))
    export_ranker(made(config, schema), SimpleNamespace(schema=schema), SOURCES, tmp_path / "ranker.onnx")  # pyright: ignore
    trained = load(tmp_path / "ranker.onnx")
    batch = {name: values.numpy() for name, values in example_batch(schema, SOURCES, num_users, 13).items()}
    forms = {"fp32": trained} | {form: with_compact_tables(trained, form) for form in ("fp16", "bf16", "int8")}
    forms["int8 layers"] = with_int8_layers(trained, input_ranges(trained, [batch]))
    for name, form in forms.items():
        alone, together = rows_alone_and_together(onnxruntime, form, batch, num_users)
        assert np.array_equal(alone, together), name
    if variant != "fm":
        num_int8 = sum(node.op_type == "MatMulIntegerToFloat" for node in forms["int8 layers"].graph.node)
        assert num_int8 >= 1


def rows_alone_and_together(
    onnxruntime: Any, model: onnx.ModelProto, batch: dict[str, np.ndarray], num_users: int
) -> tuple[np.ndarray, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    batch = {node.name: batch[node.name] for node in session.get_inputs()}
    one_by_one = [
        session.run(None, {name: values[user : user + 1] for name, values in batch.items()})[0]
        for user in range(num_users)
    ]
    return np.concatenate(one_by_one), session.run(None, batch)[0]


def test_scores_do_not_depend_on_how_many_candidates_there_are(tmp_path: Path):
    import onnxruntime

    schema = etl_schema()
    export_ranker(made(SMALL, schema), SimpleNamespace(schema=schema), SOURCES, tmp_path / "ranker.onnx")  # pyright: ignore
    session = onnxruntime.InferenceSession(str(tmp_path / "ranker.onnx"))
    batch = {name: values.numpy() for name, values in example_batch(schema, SOURCES, 3, 200).items()}
    few = {
        name: values[:, :17] if values.ndim > 1 and values.shape[1] == 200 else values for name, values in batch.items()
    }
    assert np.array_equal(session.run(None, batch)[0][:, :17], session.run(None, few)[0])
