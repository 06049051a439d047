"""Every published figure, drawn anew from its rows: no text leaves the canvas or lies on another."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

import eltbench
from eltbench import studies
from eltbench.evidence import figures
from eltbench.evidence.report.published import folders

RESULTS = Path(__file__).parents[2] / "results"
FOLDERS = [str(folder.relative_to(RESULTS)) for folder in folders(RESULTS)]
TOUCH = 1.0  # pixels by which two boxes may meet


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS)
def test_its_texts_keep_apart_and_within_the_canvas(folder):
    rows = eltbench.load_rows(RESULTS / folder)
    with figures.plain():
        canvas = studies.create(rows["study"].iloc[0]).figure(rows)
        canvas.set_dpi(100)
        canvas.draw_without_rendering()
    boxes = {text: text.get_window_extent() for text in texts(canvas)}
    assert len(boxes) > 10
    outside = [
        text.get_text()
        for text, box in boxes.items()
        if box.x0 < -TOUCH
        or box.y0 < -TOUCH
        or box.x1 > canvas.bbox.width + TOUCH
        or box.y1 > canvas.bbox.height + TOUCH
    ]
    assert not outside
    over = [
        (one.get_text(), other.get_text())
        for (one, its), (other, theirs) in combinations(boxes.items(), 2)
        if min(its.x1, theirs.x1) - max(its.x0, theirs.x0) > TOUCH
        and min(its.y1, theirs.y1) - max(its.y0, theirs.y0) > TOUCH
    ]
    assert not over


def texts(canvas: Figure) -> list[Text]:
    """The texts that are drawn; an axis has ticks beyond its limits, which are not."""
    ticks, found = set(), []
    for axis in canvas.axes:
        for along in (axis.xaxis, axis.yaxis):
            drawn = set(along._update_ticks()) if axis.axison else set()
            for tick in (*along.get_major_ticks(), *along.get_minor_ticks()):
                ticks |= {tick.label1, tick.label2}
                found += [label for label in (tick.label1, tick.label2) if tick in drawn]
            if not axis.axison:
                ticks |= {along.label, along.offsetText}
    found += [text for text in canvas.findobj(Text) if text not in ticks]
    return [text for text in found if text.get_visible() and text.get_text().strip()]
