"""The site's navigation is the lists of links in docs/index.md: a page is added to it by one line there.

Each `## Part` of index.md with a list of links becomes a part of the sidebar. README.md and CONTRIBUTING.md, which
stand outside of docs/, become pages too, and links to them lead there.
"""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = {"README.md": "site/readme", "CONTRIBUTING.md": "site/contributing"}
"""File beside docs/ to the page that shows it."""

_LINK = re.compile(r"^ *- \[([^\]]+)\]\(([^)#:]+)\)", re.MULTILINE)
_FROM_OUTSIDE, _TO_OUTSIDE = re.compile(r"\]\(docs/"), re.compile(r"\]\((?:\.\./)*(README|CONTRIBUTING)\.md")


def parts(text: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """Heading, and (title, file) of each link in the lists below it, of every part that has some."""
    sections = [section.partition("\n") for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]]
    found = [(heading.strip(), _LINK.findall(body)) for heading, _, body in sections]
    return [(heading, links) for heading, links in found if links]


def _toctree(heading: str, links: list[tuple[str, str]]) -> str:
    entries = "\n".join(f"{title} <{_page(target)}>" for title, target in links)
    return f"\n```{{toctree}}\n:hidden:\n:caption: {heading}\n\n{entries}\n```\n"


def _page(target: str) -> str:
    return f"/{OUTSIDE[Path(target).name]}" if target.startswith("../") else target


def _read(app: Sphinx, page: str, source: list[str]) -> None:
    [text] = source
    for file in [file for file, shown in OUTSIDE.items() if shown == page]:
        text = _FROM_OUTSIDE.sub("](/", (ROOT / file).read_text()).replace("[Apache 2.0](LICENSE)", "Apache 2.0")
        text = re.sub(r"\A# Cascade\n", "# README\n", text)
        app.env.note_dependency(str(ROOT / file))
    if page == "index":
        text += "".join(_toctree(heading, links) for heading, links in parts(text))
    source[0] = _TO_OUTSIDE.sub(lambda one: f"](/{OUTSIDE[one[1] + '.md']}.md", text)


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this."""
    app.connect("source-read", _read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
