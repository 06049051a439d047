"""The figure of the study disagreement: which signals know, risk by coverage, and what early exits cost and run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from eltbench.evaluation.signals.per_sample import ERRORS
from eltbench.evaluation.signals.risk_coverage import HEADLINE
from eltbench.evaluation.signals.uncertainty import SIGNALS
from eltbench.evaluation.solving import DIFFICULTY
from eltbench.evaluation.stopping import equal_solving, rules
from eltbench.evidence import figures
from eltbench.studies.curves import CELL
from eltbench.studies.disagreement.markdown import RULES

SHOWN = (*HEADLINE, "probe_logistic", "ensemble_entropy", "ensemble_variance")
KINDS = ("exits of one pass", "cheap baseline", "other models or further loops", "learned probe")
OF_FIXED: dict[str, Any] = {"ls": "--", "color": "0.3"}
OF_ORACLE: dict[str, Any] = {"ls": ":", "color": "0.3"}
LAST = ("halting", "judged-right")  # rules of models that are rarely shown
ORDER = [*sorted(rules.RULES.keys() - {"fixed", "oracle", *LAST}), *LAST]  # one look each, in every panel and figure


def figure(rows: pd.DataFrame) -> Figure:
    """Four panels a world, of elt: the AUROC of every signal, risk by coverage, and what early exits cost and run.

    The last is of sampling, where a rule's loops change along the way, or of puzzles by their difficulty. What stopping
    costs puzzles is counted in items that are not solved.
    """
    elt = rows[(rows["trainer"] == "elt") & (rows["role"] == "main")]
    elt = elt if len(elt) else rows
    cells = [here for _, here in elt.groupby(CELL)]
    canvas, axes = figures.grid(2 * len(cells), 2)
    for (upper, lower), here in zip(axes.reshape(-1, 2, 2), cells, strict=True):
        title = figures.heading(here[CELL].iloc[0], rows)
        _signals(upper[0], here, f"{title}: errors foreseen at L_max")
        _rules(upper[1], here, f"{title}: cost of stopping early")
        risk_coverage(lower[0], here, f"{title}: error of what is kept, L_max")
        if here["scope"].eq(equal_solving.SCOPE).any():
            _by_difficulty(lower[1], here, f"{title}: loops run at equal solving")
        else:
            _sampling(lower[1], here, f"{title}: loops along sampling")
    canvas.set_figheight(11.5 * len(cells))
    canvas.supxlabel(f"means over {rows['seed'].nunique()} seeds", fontsize=8)
    return canvas


def _signals(axis: Axes, here: pd.DataFrame, title: str) -> None:
    """AUROC by signal, the best within strata on top: filled within strata, hollow over all items."""
    scores = here[(here["metric"] == "auroc") & (here["loops"] == here["max_loops"]) & here["target"].isin(ERRORS)]
    within, pooled = (scores[scores["scope"] == scope].groupby("signal")["value"] for scope in ("within", "pooled"))
    names = within.mean().sort_values().index
    if not len(names):
        _say(axis, "no signal was scored")
        return
    place = np.arange(len(names))
    colours = [figures.PALETTE[_kind(name)] for name in names]
    axis.hlines(place, within.min()[names], within.max()[names], colors=colours, lw=2, alpha=0.5)
    axis.scatter(within.mean()[names], place, c=colours, s=22, zorder=3)
    axis.scatter(pooled.mean()[names], place, facecolors="none", edgecolors=colours, s=22, zorder=3)
    axis.axvline(0.5, color="0.4", lw=1)
    axis.set_yticks(place, [name.replace("_", " ") for name in names], fontsize=7)
    for kind, label in enumerate(KINDS):
        axis.plot([], [], "o", color=figures.PALETTE[kind], ms=4, label=label)
    axis.plot([], [], "o", color="0.3", mfc="none", ms=4, label="hollow: over all items")
    _key(axis)
    axis.set(xlabel="AUROC within strata of corruption, range over seeds", title=title)


def _kind(name: str) -> int:
    if name not in SIGNALS:
        return 3
    return 1 if SIGNALS[name].baseline and SIGNALS[name].one_pass else 0 if SIGNALS[name].one_pass else 2


def _rules(axis: Axes, here: pd.DataFrame, title: str) -> None:
    """Excess error by mean loops a sample, a line a rule, means over seeds; of puzzles the share no longer solved."""
    points = here[(here["metric"] == "excess_error") & here["rule"].notna() & (here["loops"] == here["max_loops"])]
    if (lost := points["target"] == equal_solving.UNSOLVED).any():
        points = points[lost]
    for rule, curve in points.groupby("rule"):
        mean = curve.groupby("setting")[["loops_per_sample", "value"]].mean().sort_values("loops_per_sample")
        axis.plot(mean["loops_per_sample"], mean["value"], label=rule, **_of_rule(str(rule)))
    axis.axhline(0, color="0.4", lw=1)
    target = points["target"].dropna().unique()
    ylabel = f"{target[0].replace('_', ' ')} above the deepest exit" if len(target) else ""
    axis.set(xlabel="mean loops a sample", ylabel=ylabel, title=title)
    if len(points):
        _key(axis)
    else:
        _say(axis, "no exits to stop at")


def risk_coverage(axis: Axes, here: pd.DataFrame, title: str) -> None:
    """Mean error by the share that is kept of every stratum, the surest first, a line a signal, means over seeds."""
    curves = here[(here["metric"] == "risk_at_coverage") & (here["loops"] == here["max_loops"])]
    curves = curves[curves["scope"] == "within"]
    axis.set(xlabel="coverage within strata of corruption", title=title)
    if curves.empty:
        _say(axis, "no curve in these rows")
        return
    names = [name for name in SHOWN if name in set(curves["signal"])]
    for name in [*names, "oracle"]:
        mean = curves[curves["signal"] == name].groupby("coverage")["value"].mean()
        axis.plot(
            mean.index,
            mean,
            label=name.replace("_", " "),
            **(OF_ORACLE if name == "oracle" else _look(SHOWN.index(name))),
        )
    axis.axhline(curves[curves["coverage"] == 1.0]["value"].mean(), color="0.4", lw=1)
    axis.set_ylabel(str(curves["target"].iloc[0]).replace("_", " "))
    _key(axis)


def _sampling(axis: Axes, here: pd.DataFrame, title: str) -> None:
    """Mean loops a sample at every step under each rule, at its setting that is nearest to three quarters of L_max.

    Dashed in the same colour: what batches of 64 run. The legend says how far the samples end from those of all loops.
    """
    steps = here[here["metric"] == "distance_to_full_loops_at_step"]
    if steps.empty:
        axis.set_axis_off()
        return
    ends = here[(here["metric"] == "distance_to_full_loops") & here["setting"].notna()]
    wanted = 0.75 * float(here["max_loops"].iloc[0])
    for rule, of_rule in ends.groupby("rule"):
        taken = of_rule.groupby("setting")[["loops_per_sample", "value"]].mean()
        nearest = int((taken["loops_per_sample"] - wanted).abs().to_numpy().argmin())
        at = steps[(steps["rule"] == rule) & (steps["setting"] == taken.index[nearest])]
        curve = at.groupby("sampling_step")[["loops_per_sample", "loops_per_batch"]].mean()
        look = _of_rule(str(rule))
        label = f"{rule}: {taken['value'].iloc[nearest]:.3g} away"
        axis.plot(curve.index, curve["loops_per_sample"], label=label, **look)
        if rule != "fixed":
            axis.plot(curve.index, curve["loops_per_batch"], **{**look, "ls": "--", "marker": "", "alpha": 0.5})
    axis.set(xlabel="sampling step", ylabel="mean loops", title=title)
    _key(axis)


def _by_difficulty(axis: Axes, here: pd.DataFrame, title: str) -> None:
    """Mean loops until each of `RULES` stops an item, by difficulty; dashed where it may run to the furthest exit.

    Means over seeds. The legend says what share of the loops is saved, of L_max and of the furthest exit.
    """
    here = here[here["scope"] == equal_solving.SCOPE]
    level = here["stratum"].str.startswith(DIFFICULTY, na=False)
    ran = here[level & (here["metric"] == "loops_run")]
    ran = ran.assign(difficulty=ran["stratum"].str.removeprefix(DIFFICULTY).astype(int))
    saved = here[here["metric"] == "loops_saved"].groupby(["rule", "loops"])["value"].mean()
    for rule in (name for name in RULES if name in set(ran["rule"])):
        shares = " and ".join(f"{100 * share:.0f} %" for share in saved[rule])
        for further, curve in ran[ran["rule"] == rule].groupby(ran["loops"] > ran["max_loops"]):
            mean = curve.groupby("difficulty")["value"].mean()
            style = {"ls": "--", "alpha": 0.6} if further else {"label": f"{rule}: {shares} saved"}
            axis.plot(mean.index, mean, **(_of_rule(rule) | style))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    reach = f", dashed: of {here['loops'].max():.0f}" if here["loops"].nunique() > 1 else ""
    axis.set(xlabel="difficulty", ylabel=f"mean loops of {here['loops'].min():.0f}{reach}", title=title)
    _key(axis)


def _key(axis: Axes) -> None:
    """The key to a panel, below it, where it covers nothing."""
    axis.legend(fontsize=7, frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.12))


def _say(axis: Axes, text: str) -> None:
    axis.text(0.5, 0.5, text, ha="center", transform=axis.transAxes)


def _of_rule(rule: str) -> dict[str, Any]:
    """How a rule is drawn; one that is not built in like the last."""
    if rule in ("fixed", "oracle"):
        return OF_FIXED if rule == "fixed" else OF_ORACLE
    return _look(ORDER.index(rule) if rule in ORDER else -1)


def _look(number: int) -> dict[str, Any]:
    colour = figures.CLEAREST[number % len(figures.CLEAREST)]
    marker = figures.CLEAREST[(number + number // len(figures.CLEAREST)) % len(figures.CLEAREST)]
    return {"color": figures.PALETTE[colour], "marker": figures.MARKERS[marker], "ms": 3, "lw": 1.2}
