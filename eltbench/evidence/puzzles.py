"""Pictures of puzzles and their answers, exit by exit: a table of panels, or frames of an animation.

Right and wrong cells differ without colour: a stroke goes through every wrong one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from eltbench.data.base import WALL
from eltbench.evidence.figures import PALETTE

GIVEN, OPEN, DARK, AMISS = (to_rgb(colour) for colour in ("0.87", "white", "0.25", "#fbd9bd"))
RIGHT, WRONG = PALETTE[0], PALETTE[3]
PANEL, MARGIN = 1.15, 1.0  # inches: a puzzle's side, and what names take
STROKE = np.array([[-0.4, 0.4], [0.4, -0.4]])  # through a wrong cell, from its middle
COLOURS = 64  # of an animation


class Settled(NamedTuple):
    """Answers to some puzzles at every exit.

    grid: cells (H, W). texts: what is seen of every cell (items, T), empty where nothing is, `WALL` where nothing can
    be. answers: the text of each symbol. hidden, target: (items, T). guesses: (E, items, T). trained: L_max. items:
    the puzzles' names. title: of whose answers they are.
    """

    grid: tuple[int, int]
    texts: np.ndarray
    answers: tuple[str, ...]
    hidden: np.ndarray
    target: np.ndarray
    guesses: np.ndarray
    exits: tuple[int, ...]
    trained: int
    items: tuple[str, ...]
    title: str


def table(settled: Settled, exits: Sequence[int]) -> Figure:
    """A row a puzzle: the puzzle itself, then its answers at these exits, of those that there are."""
    rows, columns = len(settled.items), len(exits) + 1
    canvas = Figure(figsize=(PANEL * columns + MARGIN, (PANEL + 0.28) * rows + MARGIN), layout="constrained")
    axes = canvas.subplots(rows, columns, squeeze=False)
    for item, row in enumerate(axes):
        _panel(row[0], settled, item)
        row[0].set_ylabel(settled.items[item], rotation=0, ha="right", va="center", fontsize=8)
        for axis, loops in zip(row[1:], exits, strict=True):
            _panel(axis, settled, item, settled.exits.index(loops))
    axes[0, 0].set_title("puzzle", fontsize=9)
    for axis, loops in zip(axes[0, 1:], exits, strict=True):
        trained = loops == settled.trained
        axis.set_title(f"L = {loops}{' = L_max' if trained else ''}", fontsize=9, weight="bold" if trained else None)
    canvas.suptitle(settled.title, fontsize=9)
    _legend(canvas)
    return canvas


def frames(settled: Settled) -> Iterator[Image.Image]:
    """One picture an exit: all puzzles beside one another, and on a scale below them how many loops have run."""
    columns, last = len(settled.items), settled.exits[-1]
    canvas = Figure(figsize=(1.3 * PANEL * columns + 0.3, 1.3 * PANEL + 1.5), dpi=80, layout="constrained")
    drawing = FigureCanvasAgg(canvas)
    for place, loops in enumerate(settled.exits):
        canvas.clear()
        axes = canvas.subplot_mosaic([[*range(columns)], ["scale"] * columns], height_ratios=[10, 1])
        for item, name in enumerate(settled.items):
            _panel(axes[item], settled, item, place)
            axes[item].set_title(name, fontsize=7)
        scale = axes["scale"]
        scale.barh(0, loops, color=RIGHT)
        scale.axvline(settled.trained, color="black", lw=2)
        scale.set(xlim=(0, last), ylim=(-0.5, 0.5), yticks=[], xticks=sorted({1, settled.trained, last}))
        named = {settled.trained: f"L_max = {settled.trained}"}
        scale.set_xticklabels([named.get(int(at), f"{at:g}") for at in scale.get_xticks()], fontsize=8)
        canvas.suptitle(f"{settled.title}, after {loops} loop{'s' * (loops > 1)}", fontsize=9)
        _legend(canvas)
        drawing.draw()
        pixels = np.asarray(drawing.buffer_rgba())[..., :3]
        yield Image.fromarray(np.ascontiguousarray(pixels)).quantize(COLOURS, dither=Image.Dither.NONE)


def _panel(axis: Axes, settled: Settled, item: int, place: int | None = None) -> None:
    """One puzzle, and its answer at the exit of that place if there is one."""
    height, width = settled.grid
    texts, hidden = settled.texts[item], settled.hidden[item]
    shade = np.where(hidden[:, None], OPEN, GIVEN)
    shade = np.where((texts == WALL)[:, None], DARK, shade)
    layers = [(np.where(texts == WALL, "", texts), "black")]
    if place is not None:
        guess = settled.guesses[place, item]
        wrong = hidden & (guess != settled.target[item])
        shade = np.where(wrong[:, None], AMISS, shade)
        said = np.where(hidden & (texts == ""), np.array(settled.answers)[guess], "")
        layers += [(np.where(wrong, "", said), RIGHT), (np.where(wrong, said, ""), WRONG)]
        corners = np.stack(np.divmod(np.flatnonzero(wrong), width)[::-1], axis=1)[:, None]  # (cells, 1, x and y)
        axis.add_collection(LineCollection(list(corners + STROKE), colors=[WRONG], lw=1))
        axis.set_xlabel(f"{count} wrong" if (count := int(wrong.sum())) else "solved", fontsize=8)
        axis.xaxis.label.set_fontweight("normal" if count else "bold")
    axis.imshow(shade.reshape(height, width, 3))
    room = 45 * PANEL / max(height, width)  # of a cell, in points
    for cells, colour in layers:
        for text in np.unique(cells[cells != ""]):
            row, column = np.divmod(np.flatnonzero(cells == text), width)
            axis.scatter(column, row, s=room**2 / (2 if text == "●" else 1), color=colour, lw=0, marker=_marker(text))
    axis.set_xticks(np.arange(width + 1) - 0.5, labels=[])
    axis.set_yticks(np.arange(height + 1) - 0.5, labels=[])
    axis.grid(color="0.75", lw=0.5)
    axis.tick_params(length=0)


def _marker(text: str) -> str:
    return "o" if text == "●" else rf"$\mathrm{{{text}}}$"


def _legend(canvas: Figure) -> None:
    handles = [
        Patch(facecolor=GIVEN, edgecolor="0.6", label="given"),
        Patch(facecolor=OPEN, edgecolor=RIGHT, label="right"),
        Patch(facecolor=AMISS, edgecolor=WRONG, hatch="//", label="wrong (struck through)"),
    ]
    canvas.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
