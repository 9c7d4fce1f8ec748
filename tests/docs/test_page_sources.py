"""The sources of the pages: marks, reasons, and that no command or configuration on them is made up."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest

from pipelines.__main__ import command_line
from pipelines.config import load_config

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
RUN = [DOCS / "tutorial.md", *sorted((DOCS / "how-to").glob("*.md"))]
"""Pages whose blocks are run."""
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
SHELL = ("sh", "")
COMMAND_LINE = command_line()
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
every_run_page = pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)


def commands(text: str) -> list[list[str]]:
    """The words of every command `cascade` in a block of shell, behind pipes and variables too."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        for one in re.split(r"\||&&|;(?=\s)|(?<=\s)#.*$", line):
            words = re.sub(r"^\s*(?:\$ )?(?:[A-Z_]+=\S+ )*", "", one)
            if re.match(r"(?:\.venv/bin/)?cascade ", words):
                found.append(shlex.split(re.split(r" [<>]|`", words)[0])[1:])
    return found


def parse(words: list[str]) -> None:
    """Raises: ConfigError, SystemExit or AssertionError if the command line would refuse them."""
    options, overrides = COMMAND_LINE.parse_known_args(words)
    assert options.takes_overrides or not overrides, words
    load_config(None, overrides)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cascade serve --run a   # until Ctrl-C", [["serve", "--run", "a"]]),
        ("echo '{}' | cascade events push -", [["events", "push", "-"]]),
        ("CASCADE_DATA=x .venv/bin/cascade run \\\n  --out b > log", [["run", "--out", "b"]]),
        ("cd cascade && make demo", []),
    ],
)
def test_commands_are_found(text, words):
    assert commands(text) == words


@every_page
def test_every_command_of_a_page_is_one(page, page_blocks):
    for block in page_blocks(page):
        if block.language in SHELL:
            for words in commands(block.text):
                parse(words)


@every_page
def test_every_command_within_a_sentence_exists_with_its_options(page):
    nested = next(one for one in COMMAND_LINE._actions if isinstance(one, argparse._SubParsersAction))
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for said in re.findall(r"`(?:\.venv/bin/)?cascade ([a-z]+[^`]*)`", prose):
        name, *words = said.split()
        names = name.split("|")
        assert set(names) <= set(nested.choices), said
        known = {option for one in names for action in nested.choices[one]._actions for option in action.option_strings}
        for option in [word for word in words if word.startswith("--")]:
            assert option in known or "." in option, said


@every_run_page
def test_what_is_not_run_has_a_reason(page, page_blocks):
    for block in page_blocks(page):
        if block.mark == "not run":
            assert len(block.said.split()) >= 4, f"{page.name}, line {block.line}: say why it cannot run"
        elif block.mark != "file" and block.language not in ("toml", "mermaid"):
            assert block.language in ("sh", "python"), f"{page.name}, line {block.line}: {block.language!r} is not run"


@every_run_page
def test_configurations_are_valid(page, page_blocks, tmp_path):
    for block in page_blocks(page):
        if block.language == "toml":
            assert block.mark in ("file", "added to"), f"{page.name}, line {block.line}: no file has it"
            (tmp_path / "some.toml").write_text(block.text)
            load_config(tmp_path / "some.toml")


@pytest.mark.parametrize("text", ["<!-- runs -->\n```sh\n```", "<!-- not run: why not -->\n\nNo block"])
def test_a_mark_that_means_nothing_is_an_error(text, page_blocks, tmp_path):
    (tmp_path / "page.md").write_text(text)
    with pytest.raises(ValueError, match=r"page\.md, line"):
        page_blocks(tmp_path / "page.md")
