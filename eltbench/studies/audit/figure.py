"""The audit's figure: how far every recomputed figure lies from the printed one, by row and convention."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from eltbench.evidence import figures

PANELS = (
    ("imagenet256_masked", "params_m", "ImageNet masked: parameters"),
    ("imagenet256_diffusion", "params_m", "ImageNet diffusion: parameters"),
    ("ucf101_masked", "params_m", "UCF-101: parameters"),
    ("imagenet256_masked", "gflops_k", "ImageNet masked: GFLOPs"),
    ("ucf101_masked", "gflops_k", "UCF-101: GFLOPs"),
)
TICKS = (-50, -10, -1, 0, 1, 10, 100)
SPREAD = 0.38  # of a row's height to both sides, over which its conventions are laid out


class Style(NamedTuple):
    """The columns that a panel shows by colour, by marker and by filling it; words for the marker's values.

    palette: colours that the panels of no other quantity have.
    """

    colour: str
    marker: str
    filled: str
    words: dict[Any, str]
    palette: tuple[Any, ...]


CLEAREST = tuple(figures.PALETTE[place] for place in figures.CLEAREST)
STYLES = {
    "params_m": Style("layer", "embeddings", "biases", {"no embeddings": "no embeddings counted"}, CLEAREST[:3]),
    "gflops_k": Style(
        "counts", "attention", "head", {True: "attention counted", False: "attention not counted"}, CLEAREST[3:]
    ),
}


def figure(rows: pd.DataFrame) -> Figure:
    """A panel per table and quantity: grey is what rounds to the printed figure, faint what does not fit."""
    canvas, axes = figures.grid(2, 3)
    shown = rows[rows["deviation_percent"].notna() & (rows["kind"] == "recount")]
    calls = shown["calls"].map({1: "one call a step", 2: "guidance twice"})
    shown = shown.assign(counts=shown["unit"] + "s, " + calls)
    for axis, (table, quantity, title) in zip(axes.flat, PANELS, strict=False):
        panel = shown[(shown["table"] == table) & (shown["metric"] == quantity)]
        _panel(axis, panel, shown[shown["metric"] == quantity], STYLES[quantity])
        axis.set_title(title, fontsize=10)
    _key(axes.flat[-1], shown)
    return canvas


def _panel(axis: Axes, panel: pd.DataFrame, among: pd.DataFrame, style: Style) -> None:
    models, conventions = (list(dict.fromkeys(panel[name])) for name in ("model", "convention"))
    elsewhere = panel["convention"].isin(panel[panel["fits"].eq(True)]["convention"])  # fits another row
    for place, model in enumerate(models):
        row = panel[panel["model"] == model]
        low, high = (100 * (row[f"reported_{end}"].iloc[0] / row["reported"].iloc[0] - 1) for end in ("low", "high"))
        axis.barh(place, high - low, left=low, height=0.9, color="0.85", zorder=0)
        steps = row[row["fits_at_nearest_steps"].eq(True) & elsewhere[row.index]]["nearest_steps"]
        if not row["fits"].any() and len(steps):
            counts = " or ".join(f"{count:.0f}" for count in sorted(set(steps)))
            axis.text(0, place, f"fits with {counts}\nsteps", fontsize=7, ha="center", va="center", color="0.3")
    laid = 2 * panel["convention"].map(conventions.index) / max(1, len(conventions) - 1) - 1
    places = panel["model"].map(models.index) + SPREAD * laid
    colours, markers = (list(dict.fromkeys(among[name])) for name in (style.colour, style.marker))
    for _, points in panel.groupby([style.colour, style.marker, style.filled, "fits"], sort=False):
        first = points.iloc[0]
        colour = style.palette[colours.index(first[style.colour])]
        axis.plot(
            points["deviation_percent"],
            places[points.index],
            color=colour,
            marker=figures.MARKERS[markers.index(first[style.marker])],
            mfc=colour if first[style.filled] else "white",
            ms=5,
            ls="",
            alpha=1.0 if first["fits"] else 0.35,
        )
    axis.set_xscale("symlog", linthresh=1, linscale=1)
    axis.set_xlim(min(-2, 1.3 * panel["deviation_percent"].min()), max(2, 1.3 * panel["deviation_percent"].max()))
    axis.set_xticks([tick for tick in TICKS if axis.get_xlim()[0] <= tick <= axis.get_xlim()[1]])
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+g}" if value else "0"))
    axis.minorticks_off()
    axis.set_yticks(np.arange(len(models)), models, fontsize=8)
    axis.set(ylim=(len(models) - 0.5, -0.5), xlabel="recomputed over printed, %")


def _key(axis: Axes, shown: pd.DataFrame) -> None:
    """The key to all panels, in a place of its own."""
    axis.axis("off")
    grey: dict[str, Any] = {"color": "0.3", "ls": ""}
    columns: list[list[Any]] = []
    for quantity, style in STYLES.items():
        among = shown[shown["metric"] == quantity]
        colours, markers = (list(dict.fromkeys(among[name])) for name in (style.colour, style.marker))
        handles: list[Any] = [
            Line2D([], [], color=colour, lw=5, label=f"{name} a layer" if quantity == "params_m" else name)
            for name, colour in zip(colours, style.palette, strict=False)
        ]
        handles += [
            Line2D([], [], marker=marker, label=style.words.get(name, f"embeddings counted: {name}"), **grey)
            for name, marker in zip(markers, figures.MARKERS, strict=False)
        ]
        filled = "filled: biases and norms counted" if quantity == "params_m" else "filled: head counted"
        columns.append([*handles, Line2D([], [], marker="o", label=filled, **grey)])
    columns[1].append(Patch(color="0.85", label="rounds to the printed figure"))
    look: dict[str, Any] = {"fontsize": 7.5, "frameon": False, "alignment": "left"}
    axis.add_artist(axis.legend(handles=columns[0], loc="upper left", title="parameters", **look))
    axis.legend(handles=columns[1], loc="lower left", title="GFLOPs", **look)
