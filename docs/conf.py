"""How Sphinx builds the documentation: python -m sphinx -W docs docs/_build."""

import re

from convae import __version__

project = "convae"
author = "the convae developers"
copyright = f"2026, {author}"
release = version = __version__

extensions = [
    "myst_parser",  # pages in Markdown
    "sphinx.ext.autodoc",  # API pages from docstrings
    "sphinx.ext.napoleon",  # in numpydoc's format
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings give shapes, which types do not
napoleon_google_docstring = False
default_role = "code"
html_theme = "furo"
html_title = f"convae {version}"


def escape_shapes(app, what, name, obj, options, lines):
    """Keep the stars of shapes like (N, C, *size) from being read as emphasis."""
    for index, line in enumerate(lines):
        parts = re.split(r"(`[^`]+`)", line)
        parts[::2] = [re.sub(r"(?<=[(\[ ,])\*(?=[a-z])", r"\\*", part) for part in parts[::2]]
        lines[index] = "".join(parts)


def setup(app):
    """Connect the hook, before napoleon reads the docstrings."""
    app.connect("autodoc-process-docstring", escape_shapes, priority=400)
