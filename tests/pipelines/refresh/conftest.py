"""A made world whose log comes in two pieces: a run of the first, and the logs that came after it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from features.logs.synthetic import SyntheticConfig, synthetic_logs
from pipelines.config import validated
from pipelines.stages import run_stages

NUM_LATER = 350
WORLD = SyntheticConfig(num_users=150, num_items=80, num_interactions=2_850, num_days=120)
SMALL = {
    "etl": {"history_length": 10},
    "retrieval": {"max_epochs": 2, "batch_size": 256, "two_tower": {"embedding_dim": 16, "hidden_units": [32]}},
    "ranking": {
        "max_epochs": 1,
        "network": {"embedding_dim": 8, "dlrm": {"bottom_units": [16], "top_units": [32, 16]}},
    },
    "export": {"num_candidates": 40},
    "evaluation": {"candidate_k": 40, "ks": [], "num_bootstrap": 200},
    "serving": {"http_port": 0, "grpc_port": 0, "metrics_port": 0},
}


@dataclass(frozen=True)
class Refreshed:
    """The first run, and the logs that came later."""

    run: Path
    later: Path


def write_piece(folder: Path, log: pa.Table, users: pa.Table, items: pa.Table) -> None:
    folder.mkdir(parents=True)
    for name, table in (("log", log), ("users", users), ("items", items)):
        pq.write_table(table, folder / f"{name}.parquet")


def tables_config(folder: Path) -> dict[str, Any]:
    tables = {
        "interactions": {"path": str(folder / "log.parquet"), "user_id": "user_id", "item_id": "item_id"}
        | {"timestamp": "timestamp"},
        "users": {"path": str(folder / "users.parquet"), "user_id": "user_id"}
        | {"categorical": {"club": "club_member_status"}, "continuous": {"age": "age"}},
        "items": {"path": str(folder / "items.parquet"), "item_id": "item_id", "title": "title"}
        | {"categorical": {"section": "section_name"}, "text": ["title"]},
    }
    return {"adapter": "tables", "tables": tables}


def made_world(base: Path) -> Refreshed:
    """Both pieces of the log and a run of the first; users and items come with the piece that first has them."""
    logs = synthetic_logs(WORLD)
    log = logs.interactions.sort_by("timestamp")
    cut = len(log) - NUM_LATER
    pieces = {"first": log.slice(0, cut), "later": log.slice(cut)}
    known = {name: pa.array([], pa.string()) for name in ("users", "items")}
    for name, piece in pieces.items():
        there = {}
        for table in ("users", "items"):
            ids, rows = f"{table[:-1]}_id", getattr(logs, table)
            here = pc.is_in(rows[ids], pc.unique(piece[ids]))
            there[table] = rows.filter(pc.and_(here, pc.invert(pc.is_in(rows[ids], known[table]))))
            known[table] = pa.concat_arrays([known[table], there[table][ids].combine_chunks()])
        write_piece(base / name, piece, **there)
    config = validated({"data": tables_config(base / "first"), **SMALL}, "test")
    run_stages(config, base / "run", say=lambda line: None)
    return Refreshed(base / "run", base / "later")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Refreshed:
    """Never write into it."""
    return made_world(tmp_path_factory.mktemp("refreshed"))
