"""The summary table of the study disagreement and its figure: which signals know, and what early exits cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from eltbench.evaluation.signals.per_sample import ERRORS
from eltbench.evaluation.signals.uncertainty import SIGNALS
from eltbench.studies.curves import CELL, MODEL, spread
from eltbench.studies.disagreement import figure as disagreement_curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINT = ["metric", "target", "signal", "scope", "rule", "saved", "guarantee", "alpha", "loops"]
ALONG = ["higher_is_better", "n_samples", "delta"]
COLUMNS = [*CELL, *MODEL, *POINT, "mean", "low", "high", "seeds", *ALONG, "reason"]


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean and 95 % interval over seeds of every score at L_max, of the rules and of the guarantees.

    Scores of single strata, those at other exits and the points of the curves stand in the rows alone. reason: what was
    chosen where a family was, seed by seed.
    """
    signals = rows["signal"].notna() & (rows["loops"] == rows["max_loops"]) & (rows["scope"] != "stratum")
    signals &= rows["metric"] != "risk_at_coverage"
    shown = rows[signals | rows["saved"].notna() | rows["guarantee"].notna()]
    lines = []
    for _, group in shown.groupby([*CELL, *MODEL, *POINT], dropna=False):
        known = {name: group[name].iloc[0] for name in [*CELL, *MODEL, *POINT, *ALONG]}
        reasons = "; ".join(dict.fromkeys(group["reason"].dropna()))
        lines.append({**known, **spread(group["value"]), "seeds": group["seed"].nunique(), "reason": reasons or None})
    table = pd.DataFrame(lines, columns=COLUMNS)
    return table.sort_values([*CELL, *MODEL, *POINT], na_position="first", ignore_index=True)


def figure(rows: pd.DataFrame) -> Figure:
    """Four panels a world, of elt: the AUROC of every signal, risk by coverage, and what early exits cost and run.

    The last is of sampling, where a rule's loops change along the way.
    """
    from eltbench.evidence import figures

    elt = rows[(rows["trainer"] == "elt") & (rows["role"] == "main")]
    elt = elt if len(elt) else rows
    cells = [here for _, here in elt.groupby(CELL)]
    canvas, axes = figures.grid(2 * len(cells), 2)
    for (upper, lower), here in zip(axes.reshape(-1, 2, 2), cells, strict=True):
        title = figures.heading(here[CELL].iloc[0], rows)
        _signals(upper[0], here, f"{title}: errors foreseen at L_max")
        _rules(upper[1], here, f"{title}: cost of stopping early")
        disagreement_curves.risk_coverage(lower[0], here, f"{title}: error of what is kept, L_max")
        disagreement_curves.sampling(lower[1], here, f"{title}: loops along sampling")
    canvas.set_figheight(10.5 * len(cells))
    return canvas


def _signals(axis: Axes, here: pd.DataFrame, title: str) -> None:
    """AUROC by signal, the best within strata on top: filled within strata, hollow over all items."""
    from eltbench.evidence import figures

    scores = here[(here["metric"] == "auroc") & (here["loops"] == here["max_loops"]) & here["target"].isin(ERRORS)]
    by = {scope: scores[scores["scope"] == scope].groupby("signal")["value"] for scope in ("within", "pooled")}
    names = by["within"].mean().sort_values().index
    if not len(names):
        axis.text(0.5, 0.5, "no signal was scored", ha="center", transform=axis.transAxes)
        return
    place = np.arange(len(names))
    colours = [figures.PALETTE[_kind(name)] for name in names]
    within = by["within"].mean()[names]
    axis.hlines(place, by["within"].min()[names], by["within"].max()[names], colors=colours, lw=2, alpha=0.5)
    axis.scatter(within, place, c=colours, s=22, zorder=3)
    axis.scatter(by["pooled"].mean()[names], place, facecolors="none", edgecolors=colours, s=22, zorder=3)
    axis.axvline(0.5, color="0.4", lw=1)
    axis.set_yticks(place, [name.replace("_", " ") for name in names], fontsize=7)
    for kind, label in enumerate(KINDS):
        axis.plot([], [], "o", color=figures.PALETTE[kind], ms=4, label=label)
    axis.plot([], [], "o", color="0.3", mfc="none", ms=4, label="hollow: over all items")
    axis.legend(fontsize=7, frameon=True, framealpha=0.7, edgecolor="none", loc="lower right")
    axis.set(xlabel="AUROC within strata of corruption, range over seeds", title=title)


KINDS = ("exits of one pass", "cheap baseline", "other models or further loops", "learned probe")


def _kind(name: str) -> int:
    if name not in SIGNALS:
        return 3
    return 1 if SIGNALS[name].baseline and SIGNALS[name].one_pass else 0 if SIGNALS[name].one_pass else 2


def _rules(axis: Axes, here: pd.DataFrame, title: str) -> None:
    """Excess error by mean loops a sample, a line a rule, means over seeds; hollow where whole batches run on."""
    from eltbench.evidence import figures

    points = here[(here["metric"] == "excess_error") & here["rule"].notna()]
    for number, (rule, curve) in enumerate(points.groupby("rule")):
        mean = curve.groupby("setting")[["loops_per_sample", "loops_per_batch", "value"]].mean()
        style = figures.CLEAREST[number % len(figures.CLEAREST)]
        look = {"color": figures.PALETTE[style], "marker": figures.MARKERS[style], "ms": 3, "lw": 1.2}
        look |= {"ls": "--", "color": "0.3"} if rule == "fixed" else {"ls": ":"} if rule == "oracle" else {}
        mean = mean.sort_values("loops_per_sample")
        axis.plot(mean["loops_per_sample"], mean["value"], label=rule, **look)
    axis.axhline(0, color="0.4", lw=1)
    target = points["target"].dropna().unique()
    ylabel = f"{target[0].replace('_', ' ')} above the deepest exit" if len(target) else ""
    axis.set(xlabel="mean loops a sample", ylabel=ylabel, title=title)
    if len(points):
        axis.legend(fontsize=7, frameon=True, framealpha=0.7, edgecolor="none")
    else:
        axis.text(0.5, 0.5, "no exits to stop at", ha="center", transform=axis.transAxes)
