"""One self-contained HTML page, and a PDF of the figures, from everything that stands in a results folder.

Nothing on the page is fetched from elsewhere: pictures are part of the file, and it needs no script.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eltbench.atomic import check_writable, replacing, write_text
from eltbench.report import page, published
from eltbench.report.published import Published

__all__ = ["write"]


def write(results: Path, out: Path, *, narrow: bool = False) -> tuple[Path, ...]:
    """Write `out` (HTML) and, where a figure is there, a PDF of all beside it; returns what was written.

    narrow: also presets made to show the way (smoke, quick). A folder that cannot be read is named on the page with its
    reason. Raises ValueError where `results` holds no rows, and for a place that cannot be written.
    """
    if out.suffix != ".html":
        raise ValueError(f"out: give the name of an .html file, given {out}")
    check_writable(out.parent)
    found: list[Published] = []
    unreadable: dict[str, str] = {}
    for folder in published.folders(results, narrow=narrow):
        try:
            found.append(published.read(folder))
        except ValueError as error:
            unreadable[str(folder)] = str(error)
    if not found and not unreadable:
        raise ValueError(f"{results} holds no results: run a study, for example python -m eltbench.studies.audit")
    write_text(out, page.render(found, unreadable))
    figures = [path for each in found if (path := each.folder / "figure.pdf").exists()]
    if not figures:
        return (out,)
    booklet = out.with_suffix(".pdf")
    _bind(figures, [each.name for each in found if (each.folder / "figure.pdf").exists()], booklet)
    return out, booklet


def _bind(figures: Sequence[Path], names: Sequence[str], path: Path) -> None:
    """The pages of several PDFs in one, each with its name in the outline."""
    from pypdf import PdfWriter

    writer = PdfWriter()
    for figure, name in zip(figures, names, strict=True):
        writer.append(figure, outline_item=name)
    with replacing(path) as temporary:
        writer.write(temporary)
