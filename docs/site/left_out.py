"""Leaves out what autodoc would write, for a quick look at everything else: `sphinx-build -t without_python`."""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.ext.autodoc.directive import DummyOptionSpec
from sphinx.util.docutils import SphinxDirective


class _LeftOut(SphinxDirective):
    """Takes what autodoc's directives take, and writes nothing."""

    has_content, optional_arguments, final_argument_whitespace = True, 1, True
    option_spec = DummyOptionSpec()

    def run(self) -> list[nodes.Node]:
        return []


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this."""
    for name in ("autoclass", "autofunction", "automodule"):
        app.add_directive(name, _LeftOut)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
