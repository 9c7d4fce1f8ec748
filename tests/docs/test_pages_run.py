"""Every command of the tutorial and of the how-to pages is run, with a real Triton where the page starts a server."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.triton, pytest.mark.timeout(900)]

DOCS = Path(__file__).resolve().parents[2] / "docs"
HOW_TO = sorted((DOCS / "how-to").glob("*.md"))
SAYS = {
    "evaluate-policy": ("slates of 400 users", "snips", "effective"),
    "events": ("3 accepted", "user somebody-new   (personal)", "1 accepted"),
    "own-tables": ("rows_quarantined 1",),
    "rollout": ("as a shadow of 1 of the users", "for 0.2 of the users, in experiment 'new-run'", "before   release 1"),
    "tune": ("next: cascade run --config runs/shop/tune/retrieval_best.toml",),
}
"""Words that a how-to page's commands print."""
SHOP = ("Tutorial: from your own tables to a live slate", "1. The tables", "2. The configuration", "3. The run")
"""Sections of the tutorial after which there is a shop with a run."""


@pytest.fixture(scope="module")
def tutorial(page_blocks):
    return page_blocks(DOCS / "tutorial.md")


@pytest.fixture(scope="module")
def shop(tutorial, reader_in, tmp_path_factory) -> Path:
    """A folder with the tutorial's tables and its run. Never write into it."""
    folder = tmp_path_factory.mktemp("shop")
    reader = reader_in(folder)
    for block in tutorial:
        if block.section in SHOP:
            reader.do(block, "tutorial.md")
    return folder


@pytest.fixture
def reader(shop, reader_in, tmp_path):
    """A reader in a shop of his own."""
    shutil.copytree(shop, tmp_path / "shop", ignore=shutil.ignore_patterns(".bin"))
    reader = reader_in(tmp_path / "shop")
    yield reader
    reader.end()


def test_the_tutorial_leads_to_slates_that_follow_what_happens(tutorial, reader):
    printed: dict[str, list[str]] = {}
    for block in tutorial:
        if block.section not in SHOP:
            printed.setdefault(block.section, []).append(reader.do(block, "tutorial.md"))
    bought = [item["item_id"] for item in json.loads((reader.folder / "slate.json").read_text())["items"]]
    assert len(bought) == 2
    live, event = printed["5. A live server"], printed["6. Somebody buys something"]
    assert "personal" in live[1] and "fallback" in live[2] and "personal" in live[4]
    assert all(item in live[1] for item in bought)
    assert "2 accepted" in event[-1] and not any(item in event[-1] for item in bought)
    deployed = printed["7. A better one goes live"]
    assert "better" in deployed[1] and not any(item in deployed[1].split("live  ")[0] for item in bought)
    assert "shop" in deployed[2]


@pytest.mark.parametrize("page", HOW_TO, ids=lambda page: page.stem)
def test_a_how_to_page_does_what_it_says(page, page_blocks, reader):
    printed = "\n".join(reader.do(block, page.name) for block in page_blocks(page))
    for words in SAYS.get(page.stem, ()):
        assert words in printed, f"{page.name} does not lead to {words!r}:\n{printed}"
    if page.stem == "filters":
        assert_affordable(printed, reader.folder / "items.csv")


def assert_affordable(printed: str, table: Path) -> None:
    """What the page's rules and stock allow, and nothing else, was recommended."""
    items = {item["item_id"]: item for item in csv.DictReader(table.read_text().splitlines())}
    slates = re.split(r"user user-007", printed)[1:]
    assert len(slates) == 2
    for shown in (re.findall(r"item-\d+", slate) for slate in slates):
        assert len(shown) >= 5 and not {"item-000", "item-003"} & set(shown)
        for item in shown:
            assert float(items[item]["price"]) <= 50 and items[item]["brand"] in ("Alder", "Birch", "Cedar"), item
