"""Writes the pages of docs/ that are made from the code: `make docs`. A test compares them with the code."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ["COLUMNS"] = "100"  # argparse wraps its help to the terminal

from pipelines.__main__ import command_line
from pipelines.reference import reference

DOCS = Path(__file__).resolve().parent

COMMANDS = """# Commands

The help texts of the command line, made by `make docs`. `make` puts the program at `.venv/bin/cascade`;
`.venv/bin/python -m pipelines` is the same.

Exit status: 0 it succeeded, 1 it failed with one message on stderr, 2 the command line is wrong,
130 it was interrupted.
"""


def generated() -> dict[Path, str]:
    """File to text, for every generated page."""
    return {DOCS / "configuration.md": reference(), DOCS / "commands.md": commands()}


def commands() -> str:
    """The help of every command as Markdown."""
    parser = command_line()
    nested = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    sections = [COMMANDS, _shown("cascade", parser)]
    sections += [_shown(f"cascade {name}", one) for name, one in nested.choices.items()]
    return "\n".join(sections)


def _shown(title: str, parser: argparse.ArgumentParser) -> str:
    return f"## {title}\n\n```\n{parser.format_help().strip()}\n```\n"


if __name__ == "__main__":
    for path, text in generated().items():
        path.write_text(text)
        print(f"wrote {path.relative_to(DOCS.parent)}")
