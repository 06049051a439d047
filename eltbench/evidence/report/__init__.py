"""One self-contained HTML page, and a PDF of the figures, from everything that stands in a results folder.

Nothing on the page is fetched from elsewhere: pictures are part of the file, and it needs no script.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from eltbench.core.atomic import check_writable, expanded, replacing, write_text
from eltbench.evidence.claims import Claim
from eltbench.evidence.report import page, published
from eltbench.evidence.report.booklet import booklet_of
from eltbench.evidence.report.published import Published

__all__ = ["write"]

Read = Callable[[Path], Published]


def write(
    results: Path, out: Path, asked: Mapping[str, Sequence[Claim]], read: Read, *, narrow: bool = False
) -> tuple[Path, ...]:
    """Write `out` (HTML) and, where a figure is there, a PDF of all beside it; returns what was written.

    asked: the claims of every study. read: gives a folder's content, decided anew. narrow: also presets made to show
    the way (smoke, quick). A folder that cannot be read is named on the page with its reason. Raises ValueError where
    `results` holds no rows, and for a place that cannot be written.
    """
    results, out = expanded(results), expanded(out)
    if out.suffix != ".html":
        raise ValueError(f"out: give the name of an .html file, given {out}")
    check_writable(out.parent)
    found: list[Published] = []
    unreadable: dict[str, str] = {}
    for folder in published.folders(results, narrow=narrow):
        try:
            each = read(folder)
            page.render([each], {}, asked)
        except Exception as error:  # files of strangers: one folder, however odd, must not cost the others
            unreadable[str(folder)] = (
                str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            )
        else:
            found.append(each)
    if not found and not unreadable:
        raise ValueError(f"{results} holds no results: run a study, for example python -m eltbench.studies.audit")
    booklet, unbound = booklet_of(found)
    write_text(out, page.render(found, {**unreadable, **unbound}, asked))
    if booklet is None:
        return (out,)
    with replacing(out.with_suffix(".pdf")) as temporary:
        booklet.write(temporary)
    return out, out.with_suffix(".pdf")
