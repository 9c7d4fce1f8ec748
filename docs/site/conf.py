"""Sphinx's settings for the site of docs/: `make docs`. Nothing on the site is fetched from elsewhere."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]
os.environ["DASK_DATAFRAME__QUERY_PLANNING"] = "False"  # Merlin needs the legacy dataframe, and autodoc imports it
warnings.filterwarnings("ignore", module="merlin|importlib")  # of libraries, as autodoc imports them

project = "Cascade"
html_title = "Cascade"
root_doc = "index"
exclude_patterns = []
extensions = ["myst_parser", "navigation", "flowchart"]
if tags.has("without_python"):  # noqa: F821  (Sphinx's) importing what python.md shows takes most of the time
    extensions.append("left_out")
else:
    extensions += ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "docstrings"]

# Markdown as GitHub reads it: headings have anchors, and ```sh is a block of code.
myst_heading_anchors = 4
highlight_language = "none"
suppress_warnings = ["myst.header"]  # included pages begin at any level

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_display_short_literal_types = True
python_maximum_signature_line_length = 80
add_module_names = False

html_theme = "furo"
html_static_path = ["style.css"]
html_css_files = ["style.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
pygments_style = "default"
pygments_dark_style = "monokai"
html_theme_options = {"navigation_with_keys": True}
