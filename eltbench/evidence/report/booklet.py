"""The figures of all results in one PDF: what their pages show, and nothing that acts when it is opened."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from eltbench.evidence.report.published import Published

if TYPE_CHECKING:
    from pypdf import PageObject, PdfWriter

SHOWN = ("/Type", "/Contents", "/Resources", "/MediaBox", "/CropBox", "/Rotate", "/Group")
"""What a page is drawn from; annotations, actions and all else of it stay behind."""

ACTING = ("/AA", "/A", "/OpenAction", "/JS", "/JavaScript", "/Launch", "/URI", "/EF", "/EmbeddedFiles", "/Ref", "/OPI")
"""Names of what acts, or reads other files, wherever it stands in what a page is drawn from."""


def booklet_of(found: Sequence[Published]) -> tuple[PdfWriter | None, dict[str, str]]:
    """The pages of all figures, each with its name in the outline, and why some could not be bound, by file.

    None where there is no figure.
    """
    from pypdf import PdfReader, PdfWriter

    writer, unbound = PdfWriter(), {}
    for each in found:
        path = each.folder / "figure.pdf"
        if path.exists():
            try:
                pages = [_plain(page) for page in PdfReader(path, strict=False).pages]
                for number, page in enumerate(pages):
                    writer.add_page(page)
                    if not number:
                        writer.add_outline_item(title=each.name, page_number=len(writer.pages) - 1)
            except Exception as error:  # a stranger's file; pypdf raises whatever its parser meets
                unbound[str(path)] = f"no figure that can be bound: {type(error).__name__}: {error}"
    return (writer if len(writer.pages) else None), unbound


def _plain(page: PageObject) -> PageObject:
    from pypdf import PageObject
    from pypdf.generic import NameObject

    plain = PageObject()
    for key in SHOWN:
        if key in page:
            plain[NameObject(key)] = _without_actions(page.raw_get(key))
    plain.mediabox = page.mediabox  # which may be inherited
    return plain


def _without_actions(value: Any) -> Any:
    """The object, with everything that acts removed from it and from all that it refers to."""
    from pypdf.generic import ArrayObject, DictionaryObject

    waiting, seen = [value], set()
    while waiting:
        each = waiting.pop().get_object()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, DictionaryObject):
            for key in ACTING:
                each.pop(key, None)
            waiting.extend(each.raw_get(key) for key in each)
        elif isinstance(each, ArrayObject):
            waiting.extend(list.__iter__(each))
    return value
