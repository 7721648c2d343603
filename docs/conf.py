"""Sphinx's configuration. `make docs` builds the pages into docs/_build/html; a dead reference fails."""

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS), str(DOCS.parent)]

from generated import write_pages  # noqa: E402  (needs the path above)

try:
    release = version("frozenbench")
except PackageNotFoundError:  # a checkout that is not installed
    release = ""
project = "frozenbench"
author = "The frozenbench developers"
copyright = "2026, The frozenbench developers"
version = release

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "_generated"]
myst_heading_anchors = 3
default_role = "code"  # docstrings use single backticks
autodoc_typehints = "signature"
napoleon_use_ivar = True
autodoc_member_order = "bysource"
html_theme = "furo"
html_title = "frozenbench"
html_show_sphinx = False

write_pages(DOCS / "_generated")
