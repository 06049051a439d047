"""Validation loss by learning rate, a panel a model, a line for every other setting."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

from eltbench.evidence import figures
from eltbench.studies.curves import CELL, MODEL
from eltbench.studies.tuning.choosing import NAMES


def figure(table: pd.DataFrame) -> Figure:
    """One row of panels a cell, one panel a model at its L_max; the star is the choice. table: `choosing.summary`."""
    table = table[table["loops"] == table["max_loops"]]
    cells = [of_cell for _, of_cell in table.groupby(CELL)]
    columns = max(of_cell.groupby(MODEL).ngroups for of_cell in cells)
    canvas, axes = figures.grid(len(cells), columns)
    others = [name for name in NAMES if name != "learning_rate" and table[name].nunique() > 1]
    kinds = sorted(table[others].drop_duplicates().itertuples(index=False, name=None)) if others else [()]
    for row, of_cell in zip(axes, cells, strict=True):
        for axis, (known, model) in zip(row, of_cell.groupby(MODEL), strict=False):
            for place, kind in enumerate(kinds):
                line = model[(model[others] == list(kind)).all(axis=1)].sort_values("learning_rate")
                if line.empty:
                    continue
                low, high = figures.bounds(line)
                mean, style = line["mean"].to_numpy(float), figures.CLEAREST[place % len(figures.CLEAREST)]
                label = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in zip(others, kind, strict=True))
                axis.plot(
                    line["learning_rate"],
                    mean,
                    color=figures.PALETTE[style],
                    marker=figures.MARKERS[style],
                    ms=4,
                    label=label or None,
                )
                axis.fill_between(line["learning_rate"], low, high, color=figures.PALETTE[style], alpha=0.12, lw=0)
            chosen = model[model["chosen"]]
            axis.plot(chosen["learning_rate"], chosen["mean"], "*", color="black", ms=11, zorder=3, label="chosen")
            rates = sorted(model["learning_rate"].unique())
            axis.set(xscale="log", yscale="log", xlabel="learning rate", ylabel="validation loss")
            axis.xaxis.set_major_locator(FixedLocator(rates))
            axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.xaxis.set_minor_formatter(NullFormatter())
            best, worst = model["mean"].min(), model["mean"].max()
            axis.set_ylim(0.97 * best, min(1.03 * worst, 1.5 * best))
            figures.plain_ticks(axis, model["mean"])
            trainer, role, layers, deepest = known
            name = f"{trainer} {layers}N×{deepest}L" + ("" if role == "main" else f" ({role})")
            axis.set_title(f"{figures.heading(of_cell[CELL].iloc[0], table)}\n{name}", fontsize=10)
        for axis in row[of_cell.groupby(MODEL).ngroups :]:
            axis.set_axis_off()
    figures.key(canvas, int(table["seeds"].max()))
    return canvas
