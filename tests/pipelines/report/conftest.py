"""Runs that were evaluated: of interactions with answers that are made up, of impressions with a real ranker."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from features.artifact import open_artifact
from pipelines.config import as_document, load_saved_config, validated
from pipelines.evaluate import evaluate
from pipelines.evaluate_clicks import evaluate_clicks
from pipelines.stages import run_stages

QUICK = {"candidate_k": 20, "ks": (), "num_bootstrap": 100, "max_tuning_users": 20}
CLICKS = {
    "data": {
        "adapter": "synthetic_clicks",
        "synthetic_clicks": {"num_users": 60, "num_items": 50, "num_impressions": 3_000},
    },
    "ranking": {
        "network": {"embedding_dim": 4, "dlrm": {"bottom_units": [8], "top_units": [16]}},
        "clicks": {"max_epochs": 2},
    },
    "evaluation": {"num_bootstrap": 30},
}


class Page(HTMLParser):
    """A strict reading: every tag closed in order, text outside styles and figures, tables by caption."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.tables: list[tuple[str, list[list[str]]]] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)
        if tag == "table":
            self.tables.append(("", []))
        elif tag == "tr":
            self.tables[-1][1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"{tag} at line {self.getpos()[0]}"
        self.text += " " if tag in ("td", "th", "dt", "dd") else ""

    def handle_data(self, data: str) -> None:
        if {"svg", "style"} & set(self.open):
            return
        self.text += data
        if self.open and self.open[-1] == "caption":
            self.tables[-1] = (data, self.tables[-1][1])
        elif {"td", "th"} & set(self.open):
            self.tables[-1][1][-1][-1] += data

    def rows(self, caption: str) -> dict[str, dict[str, str]]:
        """The table of a caption: row -> column -> cell."""
        head, *rows = next(rows for shown, rows in self.tables if shown == caption)
        return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}

    @property
    def decimals(self) -> set[str]:
        """Every number with four digits behind the point."""
        return set(re.findall(r"[+-]?\d+\.\d{4}\b", self.text))


@pytest.fixture(scope="session")
def read_page() -> type[Page]:
    return Page


@dataclass
class Reply:
    candidate_ids: np.ndarray
    ranked_ids: np.ndarray
    item_ids: np.ndarray
    source: np.ndarray


def answers(run: Path, luck: float) -> Callable[[list[str]], Reply]:
    """Each user's items of the test period in random places; the luckier, the nearer to the top."""
    users, items, events = (pq.read_table(run / "etl" / f"{name}.parquet") for name in ("users", "items", "events"))
    row_of = {name: row for row, name in enumerate(users["raw_id"].to_pylist())}
    raw_ids = np.array(items["raw_id"].to_pylist(), object)
    wanted_UI = np.zeros((len(row_of), len(raw_ids)), bool)
    known_UI = wanted_UI.copy()
    user, item, is_test = (events[name].to_numpy() for name in ("user_row", "item_row", "split"))
    for marked_UI, chosen in ((wanted_UI, is_test == 2), (known_UI, is_test < 2)):
        marked_UI[user[chosen], item[chosen]] = True

    def recommend(asked: list[str]) -> Reply:
        rows = [row_of[name] for name in asked]
        chance_BI = np.stack([np.random.default_rng(row).random(len(raw_ids)) for row in rows])
        order_BI = np.argsort(-(chance_BI + luck * wanted_UI[rows] - 9.0 * known_UI[rows]), axis=1)
        ids_BK = raw_ids[order_BI[:, : QUICK["candidate_k"]]]
        return Reply(ids_BK, ids_BK, ids_BK[:, :10], np.full(len(rows), "personal"))

    return recommend


@pytest.fixture(scope="session")
def evaluated_run(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[float], Path]:
    """A function that copies the small run and evaluates it with answers of some luck; made once each."""
    made: dict[float, Path] = {}

    def make(luck: float) -> Path:
        if luck not in made:
            run = tmp_path_factory.mktemp(f"luck_{luck}") / "run"
            made[luck] = shutil.copytree(small_run, run, ignore=shutil.ignore_patterns("serve", "done"))
            config = load_saved_config(run / "config.json")
            config = replace(config, evaluation=replace(config.evaluation, **QUICK))
            (run / "config.json").write_text(json.dumps(as_document(config)))
            about = {"export_content_hash": open_artifact(run / "export", "export").content_hash}
            evaluate(run / "etl", answers(run, luck), config.evaluation, True, out=run, seed=config.seed, about=about)
        return made[luck]

    return make


@pytest.fixture
def evaluated(evaluated_run: Callable[[float], Path], tmp_path: Path) -> Path:
    """A run of interactions, to change."""
    return Path(shutil.copytree(evaluated_run(0.3), tmp_path / "evaluated"))


@pytest.fixture(scope="session")
def clicks_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluated run of impressions. Never write into it."""
    run = tmp_path_factory.mktemp("clicks") / "run"
    config = validated(CLICKS, "CLICKS")
    run_stages(config, run, say=lambda line: None)
    evaluate_clicks(run / "etl", run / "ranking", config.evaluation, config.ranking, out=run, seed=config.seed)
    return run


@pytest.fixture
def clicks(clicks_run: Path, tmp_path: Path) -> Path:
    """A run of impressions, to change."""
    return Path(shutil.copytree(clicks_run, tmp_path / "clicks"))
