"""What the pages say against what is there: the tree, the operators, the commands, the links, the configuration."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from pipelines.__main__ import command_line
from pipelines.config import load_config

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
PACKAGES = ("pipelines", "ensemble", "retrieval", "ranking", "features")


def blocks(text: str, *languages: str) -> list[str]:
    """Fenced blocks in one of the languages; "" is none."""
    fenced: list[tuple[str, list[str]]] = []
    inside = False
    for line in text.splitlines():
        if line.startswith("```"):
            inside = not inside
            if inside:
                fenced.append((line.removeprefix("```"), []))
        elif inside:
            fenced[-1][1].append(line)
    return ["\n".join(lines) for language, lines in fenced if language in languages]


def tracked() -> list[str]:
    """Files that git tracks, or would if they were added."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [name for name in listed.stdout.splitlines() if (ROOT / name).exists()]


def test_the_tree_of_the_readme_is_the_tree():
    [tree] = [block for block in blocks(README, "") if "pipelines/" in block]
    shown, above = [], ""
    for line in tree.splitlines():
        name, _, comment = line.strip().partition(" ")
        assert comment.strip(), f"{name} has no comment"
        above = name if not line.startswith(" ") else above
        shown.append(name if not line.startswith(" ") else above + name)
    there = set()
    for name in tracked():
        parts = name.split("/")
        if parts[0] in PACKAGES:
            there |= {f"{parts[0]}/"} | ({f"{parts[0]}/{parts[1]}/"} if len(parts) > 2 else set())
        else:
            there.add(f"{parts[0]}/" if len(parts) > 1 and not parts[0].startswith(".") else name)
    assert sorted(shown) == sorted(there)


def test_the_operators_of_the_readme_are_those_of_the_request_path():
    section = README.split("## The operators of the request path")[1].split("\n## ")[0]
    shown = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    files = {path.stem for path in (ROOT / "ensemble" / "operators").glob("*.py")} - {"__init__", "operator"}
    assert sorted(shown) == sorted("".join(word.capitalize() for word in name.split("_")) for name in files)
    graph = (ROOT / "ensemble" / "graph.py").read_text()
    links = re.findall(r">> (\w+)\(", graph)
    assert shown == links, "the table has the order of the graph"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_in_the_docs_is_one(page):
    lines = [line for block in blocks(page.read_text(), "", "sh") for line in block.splitlines()]
    for line in lines:
        words = line.partition("#")[0].split()
        if words[:1] in (["cascade"], [".venv/bin/cascade"]):
            options, rest = command_line().parse_known_args(words[1:])
            assert not rest or options.takes_overrides, line
            load_config(None, rest)
        if words[:1] == ["make"]:
            assert not words[1:] or re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_in_the_docs_leads_to_a_file(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_configuration_in_the_readme_is_valid(tmp_path):
    for number, block in enumerate(blocks(README, "toml")):
        (tmp_path / f"{number}.toml").write_text(block)
        load_config(tmp_path / f"{number}.toml")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_key_named_in_the_docs_is_one(page):
    from pipelines.config import keys_of

    known = {name for name, *_ in keys_of()}
    sections = {name.split(".")[0] for name in known}
    named = re.findall(r"`(?:--)?([a-z_]+(?:\.[a-z_-]+)+)(?: = [^`]*| [^`.]*)?`", page.read_text())
    keys = [name.replace("-", "_") for name in named if name.split(".")[0] in sections]
    files = {".md", ".py", ".toml", ".parquet", ".json", ".faiss", ".html"}
    unknown = [key for key in keys if f".{key.rpartition('.')[2]}" not in files and key not in known]
    assert not [key for key in unknown if not any(name.startswith(f"{key}.") for name in known)], unknown


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "LOG.md"], ids=lambda page: page.name)
def test_python_in_the_docs_is_python(page):
    for block in blocks(page.read_text(), "python"):
        compile(block, str(page), "exec")
