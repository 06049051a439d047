"""Tables as people read them: rows of text under a head, for a terminal, a Markdown document and a notebook."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from html import escape

from rich import box
from rich.console import Console
from rich.table import Table

Cells = Sequence[str]
PIPED_WIDTH = 160  # columns where stdout is no terminal, whose width could be asked


def console() -> Console:
    """Where commands print their tables."""
    return Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)


def terminal(head: Cells, lines: Iterable[Cells] = (), numbers: Iterable[str] = (), title: str | None = None) -> Table:
    """A table for a terminal; the columns named in `numbers` are set to the right. Cells may hold rich's markup."""
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, title=title, title_justify="left")
    for name in head:
        shown.add_column(name, justify="right" if name in numbers else "left")
    for cells in lines:
        shown.add_row(*cells)
    return shown


def markdown(head: Cells, lines: Iterable[Cells], numbers: Iterable[str] = ()) -> str:
    """The same for a document, ending in a line break."""
    ruled = [head, ["--:" if name in numbers else "---" for name in head], *lines]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in ruled)


def html(caption: str, lines: Iterable[Cells]) -> str:
    """The same for a notebook, below a caption; all of it is text, whatever it holds."""
    rows = ("".join(f"<td>{escape(cell)}</td>" for cell in cells) for cells in lines)
    return f"<p>{escape(caption)}</p><table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"
