"""Slates on the screen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from ensemble.request import Reply


def titles(items: Path) -> dict[str, str]:
    """Titles by raw item id, from the etl stage's `items.parquet`; empty if it is not there."""
    if not items.is_file():
        return {}
    table = pq.read_table(items, columns=["raw_id", "title"])
    return dict(zip(table["raw_id"].to_pylist(), table["title"].to_pylist(), strict=True))


def print_json(users: Sequence[str], reply: Reply, _: Mapping[str, str]) -> None:
    """A JSON object a user, one a line, as the server answers: without titles."""
    for user, items, scores, source in zip(users, reply.item_ids, reply.scores, reply.source, strict=True):
        slate = [{"item_id": item, "score": float(score)} for item, score in zip(items, scores, strict=True) if item]
        print(json.dumps({"user_id": user, "source": source, "items": slate}, ensure_ascii=False))


def print_slates(users: Sequence[str], reply: Reply, title_of: Mapping[str, str]) -> None:
    """A table a user: rank, item, title, score, and where the slate came from."""
    console = Console()
    for user, items, scores, source in zip(users, reply.item_ids, reply.scores, reply.source, strict=True):
        table = Table("rank", "item", "title", "score", title=f"user {user}   ({source})", title_justify="left")
        for rank, (item, score) in enumerate(zip(items, scores, strict=True), start=1):
            if item:
                table.add_row(str(rank), item, title_of.get(item, ""), f"{score:.3f}")
        console.print(table)
