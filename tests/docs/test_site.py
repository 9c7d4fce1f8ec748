"""The site: its navigation holds every page, its pictures are what the text says, and it is built without a warning."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def module(name: str) -> ModuleType:
    """One of docs/site."""
    spec = importlib.util.spec_from_file_location(f"site_{name}", DOCS / "site" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


flowchart, navigation, docstrings = module("flowchart"), module("navigation"), module("docstrings")


def test_every_page_is_in_the_navigation_once():
    targets = [target for _, links in navigation.parts((DOCS / "index.md").read_text()) for _, target in links]
    pages = [page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md") if page.parent.name != "site"]
    assert sorted(targets) == sorted(
        [page for page in pages if page != "index.md"] + ["../README.md", "../CONTRIBUTING.md"]
    )


def test_a_flowchart_has_its_boxes_and_arrows():
    chart = flowchart.parsed('flowchart LR\n  a["one<br/>two"] --> b --> c\n  a --> c')
    assert chart.lines == {"a": ["one", "two"], "b": ["b"], "c": ["c"]}
    assert chart.arrows == [("a", "b"), ("b", "c"), ("a", "c")]
    layer, paths = flowchart.layers(chart)
    assert [sorted(names) for names in layer] == [["a"], ["a>c@1", "b"], ["c"]]
    assert paths[2] == ["a", "a>c@1", "c"]
    drawn = flowchart.svg("flowchart LR\n  a --> b")
    assert drawn.count("<rect") == 2 and drawn.count('class="head"') == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sequenceDiagram\n a->>b: c", "must begin with"),
        ("flowchart LR\n a -->|yes| b", "cannot draw"),
        ("flowchart LR\n a --> b --> a", "circle"),
    ],
)
def test_a_picture_that_would_be_drawn_wrongly_is_an_error(text, message):
    with pytest.raises(ValueError, match=message):
        flowchart.svg(text)


def test_a_docstring_is_read_as_it_is_meant():
    lines = [
        "Look at `here`.",
        "",
        "Args:",
        "    max_: most.",
        "Returns: a number,",
        "    or none.",
        "Raises: ValueError.",
    ]
    assert docstrings.readable(lines) == [
        *["Look at ``here``.", "", "Args:", r"    max\_: most.", "", "**Returns:** a number,", "or none."],
        *["", "**Raises:** ValueError."],
    ]


def built(folder: Path, *options: str) -> list[Path]:
    """The pages of the site."""
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-c",
        "docs/site",
        *options,
        "docs",
        str(folder),
    ]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return list(folder.rglob("*.html"))


def test_the_site_is_built_without_a_warning_and_fetches_nothing(tmp_path):
    pages = built(tmp_path, "-t", "without_python")
    assert tmp_path / "index.html" in pages
    for page in pages:
        loaded = re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=\"([^\"]+)\"", page.read_text())
        assert not [one for one in loaded if one.startswith(("http:", "https:", "//"))], page.name
        assert "```mermaid" not in page.read_text() and "flowchart LR" not in page.read_text(), page.name
    for sheet in tmp_path.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", sheet.read_text()), sheet.name


@pytest.mark.slow
def test_the_page_on_python_has_the_docstrings_and_no_warning(tmp_path):
    built(tmp_path)
    page = (tmp_path / "python.html").read_text()
    assert "RecommendClient" in page and "host:port, without a scheme." in page
