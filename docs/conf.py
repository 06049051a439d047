"""The documentation site: `make docs` builds it from these pages and the docstrings, warnings being errors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import eltbench
from eltbench.core.atomic import write_text

project, author, release = "eltbench", "eltbench contributors", eltbench.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx_copybutton"]
exclude_patterns = ["_build", "jupyter_execute"]
nb_execution_mode = "off"  # their outputs are committed, and a test makes them anew
myst_heading_anchors = 4
default_role = "literal"  # in docstrings a single backtick marks code
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
html_theme = "furo"  # search, dark mode, and wide tables that scroll within their page
html_title = "eltbench"
html_static_path, html_css_files = ["_static"], ["tables.css"]
html_show_copyright = False  # the licence says it

ROOT = Path(__file__).parents[1]
for notebook in sorted(ROOT.glob("notebooks/*.ipynb")):  # which stand outside of these pages, and link to them
    text = notebook.read_text(encoding="utf-8")
    write_text(ROOT / "docs" / "notebooks" / notebook.name, text.replace("](../docs/", "](../"))

ELSEWHERE = re.compile(r"(?<!!)\[([^]]+)\]\(\.\./([^)]+)\)")  # links out of docs/: to code, presets, results
MARKUP = re.compile(r"([*|_])")


def without_links_elsewhere(app: Any, page: str, source: list[str]) -> None:
    """What lies outside these pages is named by its place in the repository; a site holds no copy of it.

    A notebook's text is JSON, and `](../` leads from it to these pages.
    """
    if page.startswith("notebooks/"):
        return
    source[0] = ELSEWHERE.sub(
        lambda found: f"`{found[2]}`" if found[1].strip("`") in found[2] else f"{found[1]} (`{found[2]}`)", source[0]
    )


def plain(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text with code in backticks, their lines wrapped: no markup but that and paragraphs."""
    for place, line in enumerate(lines):
        parts = re.split(r"(`[^`]*`)", line.strip())  # every second one is code
        lines[place] = "".join(MARKUP.sub(r"\\\1", part) if part[:1] != "`" else part for part in parts)


def setup(app: Any) -> None:
    """Register both."""
    app.connect("source-read", without_links_elsewhere)
    app.connect("autodoc-process-docstring", plain)
