"""Draws docs/headline.png, the README's first figure, from the committed results: `python docs/headline.py`."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

import eltbench
from eltbench.evidence import figures
from eltbench.studies import curves

ROOT = Path(__file__).parents[1]
WORLDS = {"diffusion": "diffusion on digits (mean squared error)", "masked": "masked digits (cross-entropy)"}
NAMES = {
    ("elt", "main"): "ELT, trained for 4 loops",
    ("no-ilsd", "main"): "the same block without ILSD",
    ("no-ilsd", "dedicated"): "a model trained for that depth alone",
    ("unique-depth", "equal-compute"): "8 unique layers, the compute of 4 loops",
}


def headline(rows: pd.DataFrame) -> plt.Figure:
    """Held-out loss by loops of ELT and its controls, one panel a task, bands of 95 % over the seeds."""
    table = curves.summary(rows)
    table = table[(table["metric"] == "heldout_loss") & table["stratum"].isna()]
    figure, axes = plt.subplots(1, len(WORLDS), figsize=(9.6, 3.6), layout="constrained")
    for axis, (task, title) in zip(axes, WORLDS.items(), strict=True):
        here = table[table["task"] == task]
        for model, curve in figures.models(here):
            name = NAMES.get((model.trainer, model.role))
            if name is None:
                continue
            curve = curve.sort_values("loops")
            loops, mean = curve["loops"].to_numpy(float), curve["mean"].to_numpy(float)
            low, high = figures.bounds(curve)
            if model.trainer == "unique-depth":
                axis.axhline(mean[0], color=model.colour, ls="--", lw=1.2, label=name)
            elif len(curve) == 1:
                first = name if name not in axis.get_legend_handles_labels()[1] else None
                axis.plot(loops, mean, model.marker, color=model.colour, mfc="white", ms=6, label=first)
            else:
                axis.plot(loops, mean, label=name, ms=4, **model.line)
                axis.fill_between(loops, low, high, color=model.colour, alpha=0.2, lw=0)
        axis.axvline(4, color="0.6", ls=":", lw=1)
        axis.annotate("L_max", (4, 1), xycoords=("data", "axes fraction"), xytext=(3, -9), textcoords="offset points")
        axis.set_yscale("log")
        figures.plain_ticks(axis, here["mean"])
        axis.set(xlabel="loops at inference, L", ylabel="held-out loss", title=title, xticks=range(1, 13))
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


if __name__ == "__main__":
    figure = headline(eltbench.load_rows(ROOT / "results" / "extrapolation" / "digits"))
    figure.savefig(ROOT / "docs" / "headline.png", dpi=110, metadata={"Software": None})
