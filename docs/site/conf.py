"""The site of the documents: `make docs` builds it from docs/ with Sphinx, and fails on a dead link or anchor.

Sphinx, because it is maintained (the last release of MkDocs is of 2024), and its theme Furo loads nothing from other
hosts.
The pages stay plain Markdown, which a forge shows as well.
"""

import re
from typing import Any

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

project = "Eddy"
author = "the authors of Eddy"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_click"]
exclude_patterns = ["schemas", "examples"]
html_theme = "furo"
html_title = "Eddy"
html_show_sphinx = False
html_copy_source = False
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
suppress_warnings = ["misc.highlighting_failure"]  # messages are shown with `...`, which is no JSON
linkcheck_ignore = [r"https?://(localhost|127\.|[\w.-]*example\.com)"]  # examples of a reader's own servers
autodoc_member_order = "bysource"
autodoc_typehints = "signature"

ELSEWHERE = {"](../README.md": "](site/readme.md", "](../CHANGELOG.md": "](site/changelog.md"}
"""Links to pages that the site has in another place."""


def _link(app: Sphinx, name: str, source: list[str]) -> None:
    for link, there in ELSEWHERE.items():
        source[0] = source[0].replace(link, there)


def _as_written(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Show a docstring below its first paragraph as it is written: its columns are parameters, shapes and errors."""
    first = lines.index("") if "" in lines else len(lines)
    rest = [f"    {line}" for line in lines[first + 1 :]]
    lines[first:] = ["", "::", "", *rest, ""] if any(line.strip() for line in rest) else [""]


def _as_text(app: Sphinx, context: Any, lines: list[str]) -> None:
    """A name such as EDDY_KAFKA_ in the help of a command is no link."""
    lines[:] = [re.sub(r"_(?=\W|$)", r"\_", line) for line in lines]


def setup(app: Sphinx) -> None:
    app.add_lexer(
        "mermaid", TextLexer
    )  # a forge draws the diagram; drawing it here would load a program from elsewhere
    app.connect("source-read", _link)
    app.connect("sphinx-click-process-description", _as_text)
    app.connect("autodoc-process-docstring", _as_written)
