import io
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from rich.console import Console

from features.profile import profile_tables
from pipelines.profile_page import print_profile, profile_warnings, write_profile_page

EVIL = '<script>alert("x")</script>'
VOID = {"meta", "br", "img", "link"}


class Page(HTMLParser):
    """A strict reading: every tag is closed in order; what a browser would fetch or run is collected."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"{tag} at line {self.getpos()[0]}"

    def handle_data(self, data: str) -> None:
        self.words += data.split()


def world() -> dict[str, Any]:
    """A profile with every kind of column and every kind of trouble."""
    rng, rows = np.random.default_rng(0), 500
    log = pa.table(
        {
            "user_id": [f"u{number}" for number in rng.geometric(0.05, rows)],
            "timestamp": 10**9 + rng.integers(0, 10**7, rows),
            "price": rng.lognormal(0, 2, rows),
            "colour": [EVIL if number % 3 else "red" for number in range(rows)],
            EVIL: rng.integers(0, 5, rows),
            "tags": [["a", EVIL][: number % 3] for number in range(rows)],
            "title": [f"The \x1b[31m{number} <b>ways</b> $a$ of words" for number in range(rows)],
            "code": [f"c{number}" for number in range(rows)],
            "constant": ["same"] * rows,
            "empty": pa.nulls(rows, pa.string()),
            "sparse": pa.array([1.0] * 100 + [None] * 400),
            "infinite": pa.array([np.inf, *rng.normal(size=rows - 1)]),
            "old": pa.array(np.arange(rows).astype("datetime64[s]")),
        }
    )
    log = pa.concat_tables([log, log.slice(0, 50)])
    bad = pa.table({"table": ["log"] * 3, "reason": [EVIL, "no id", "no id"]})
    nothing = pa.table({"a": pa.array([], pa.int64()), "b": pa.array([], pa.string())})
    return profile_tables(
        {"log": log, EVIL: nothing},
        keys={"log": ("user_id", "timestamp")},
        times={"log": "timestamp"},
        quarantine=bad,
    )


@pytest.fixture(scope="module")
def profile() -> dict[str, Any]:
    return world()


@pytest.fixture(scope="module")
def path(profile: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "profile.html"
    write_profile_page(profile, path)
    return path


def test_the_page_is_well_formed_and_shows_every_table_and_column(profile: dict, path: Path) -> None:
    page = Page(path)
    for name, table in profile["tables"].items():
        for column in (name, *table["columns"]):
            assert set(column.split()) <= set(page.words)
    columns = [tag for tag, attributes in page.tags if attributes.get("class") == "column"]
    assert len(columns) == sum(len(table["columns"]) for table in profile["tables"].values())
    links = {attributes["href"] for tag, attributes in page.tags if tag == "a"}
    assert links == {f"#{attributes['id']}" for tag, attributes in page.tags if tag == "h2"}


def test_the_page_runs_nothing_and_fetches_nothing(path: Path) -> None:
    page = Page(path)
    tags = {tag for tag, _ in page.tags}
    assert tags.isdisjoint({"script", "img", "link", "iframe", "object", "embed", "base", "form", "b-evil"})
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "xlink:href", "data", "action"):
            assert (attributes.get(name) or "#").startswith("#")
    text = path.read_text(encoding="utf-8")
    assert "@import" not in text and not re.search(r"url\((?!#)", text)
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"|http-equiv', "", text)


def test_values_are_escaped_wherever_they_stand(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "<script" not in text and "<b>ways" not in text and "\x1b" not in text
    assert text.count("&lt;script&gt;") >= 6  # table, column, value, element, reason, label of the plot
    assert r"\x1b[31m" in text


def test_plots_are_svg_in_the_colors_of_the_page(path: Path) -> None:
    plots = re.findall(r"<svg .*?</svg>", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(plots) >= 9  # two times in two widths, four numbers, ids, list, text
    for plot in plots:
        # a page declares no namespaces; an XML parser wants them
        root = ElementTree.fromstring(plot.replace("<svg ", '<svg xmlns:xlink="x" ', 1))
        assert root.attrib["aria-label"] and root.attrib["viewBox"] and "width" not in root.attrib
        assert "var(--bar)" in plot and "currentColor" in plot
        assert not set(re.findall(r"#[0-9a-f]{6}\b", plot)) - {"#000000"}  # of clip paths, never seen


def test_the_same_profile_gives_the_same_page(profile: dict, path: Path, tmp_path: Path) -> None:
    write_profile_page(profile, tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == path.read_bytes()


def test_what_is_wrong_with_the_data_is_said(profile: dict, path: Path) -> None:
    warned = [(entry.column, entry.text) for entry in profile_warnings(profile["tables"]["log"])]
    assert warned == [
        ("", f"rows that could not be read: 3 (0.542 %); no id: 2, {EVIL}: 1"),
        ("", "rows equal to another in every column: 50 (9.09 %)"),
        ("code", "nearly every row has a value of its own: an id, not a category?"),
        ("constant", "constant: it says nothing"),
        ("empty", "all null"),
        ("sparse", "72.7 % null"),
        ("sparse", "constant: it says nothing"),
        ("infinite", "2 infinite values"),
        ("old", "starts in 1970: is the unit right?"),
    ]
    assert [entry.text for entry in profile_warnings(profile["tables"][EVIL])] == ["the table is empty"]
    page = Page(path)
    badges = [attributes for _, attributes in page.tags if attributes.get("class") == "badge"]
    assert len(badges) == sum(column != "" for column, _ in warned)


def test_rows_with_the_same_key_are_said_only_if_they_are_more_than_repeated_rows() -> None:
    def warned(ids: list[str], names: list[str]) -> list[str]:
        profile = profile_tables({"t": pa.table({"id": ids, "name": names})}, keys={"t": ("id",)})
        return [entry.text for entry in profile_warnings(profile["tables"]["t"])]

    assert warned(["a", "b"], ["x", "y"]) == []
    assert warned(["a", "a", "b", "c"], ["x", "y", "x", "y"]) == ["rows equal to another in id: 1 (25 %)"]
    assert warned(["a", "a", "b", "c"], ["x", "x", "x", "y"]) == ["rows equal to another in every column: 1 (25 %)"]


def test_the_terminal_shows_a_line_a_column_and_at_most_forty_a_table(profile: dict) -> None:
    out = io.StringIO()
    wide = profile_tables({"wide": pa.table({f"column{number}": ["a"] * 200 for number in range(60)})})
    print_profile({"tables": profile["tables"] | wide["tables"]}, Console(file=out, width=120))
    lines = out.getvalue().splitlines()
    assert max(len(line) for line in lines) <= 120
    starts = [row for row, line in enumerate(lines) if re.search(r": [\d,]+ rows, \d+ columns$", line)]
    assert len(starts) == 3
    assert max(np.diff([*starts, len(lines)])) <= 40
    first = lines[starts[0] : starts[1]]
    for name in profile["tables"]["log"]["columns"]:
        assert any(line.strip().startswith(name[:20]) for line in first)
    assert any("rows that could not be read: 3 (0.542 %)" in line for line in first)
    assert "40 of 60 columns" in lines[-1] or "40 of 60 columns" in lines[-2]
    assert "\x1b" not in out.getvalue()


@pytest.mark.realdata
def test_a_page_of_fashion_articles_is_well_formed(cascade_data: Path, tmp_path: Path) -> None:
    articles = pyarrow.csv.read_csv(cascade_data / "hm" / "articles.csv.gz")
    profile = profile_tables({"articles": articles}, keys={"articles": ("article_id",)})
    write_profile_page(profile, tmp_path / "articles.html")
    page = Page(tmp_path / "articles.html")
    assert {"Trousers", "detail_desc", "105,542"} <= set(page.words)
