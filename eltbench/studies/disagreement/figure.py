"""Panels of the study disagreement that are curves: risk by coverage, and loops along the sampling trajectory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from eltbench.evaluation.signals.risk_coverage import HEADLINE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = (*HEADLINE, "probe_logistic", "ensemble_entropy", "ensemble_variance")
OF_FIXED, OF_ORACLE = {"ls": "--", "color": "0.3"}, {"ls": ":", "color": "0.3"}


def risk_coverage(axis: Axes, here: pd.DataFrame, title: str) -> None:
    """Mean error by the share that is kept of every stratum, the surest first, a line a signal, means over seeds."""
    curves = here[(here["metric"] == "risk_at_coverage") & (here["loops"] == here["max_loops"])]
    curves = curves[curves["scope"] == "within"]
    axis.set(xlabel="coverage within strata of corruption", title=title)
    if curves.empty:
        axis.text(0.5, 0.5, "no curve in these rows", ha="center", transform=axis.transAxes)
        return
    names = [name for name in SHOWN if name in set(curves["signal"])]
    for number, name in enumerate([*names, "oracle"]):
        mean = curves[curves["signal"] == name].groupby("coverage")["value"].mean()
        axis.plot(mean.index, mean, label=name.replace("_", " "), **(OF_ORACLE if name == "oracle" else _look(number)))
    axis.axhline(curves[curves["coverage"] == 1.0]["value"].mean(), color="0.4", lw=1)
    axis.set_ylabel(str(curves["target"].iloc[0]).replace("_", " "))
    axis.legend(fontsize=7, frameon=True, framealpha=0.7, edgecolor="none")


def sampling(axis: Axes, here: pd.DataFrame, title: str) -> None:
    """Mean loops a sample at every step under each rule, at its setting that is nearest to three quarters of L_max.

    Dashed in the same colour: what batches of 64 run. The legend says how far the samples end from those of all loops.
    """
    steps = here[here["metric"] == "distance_to_full_loops_at_step"]
    if steps.empty:
        axis.set_axis_off()
        return
    ends = here[(here["metric"] == "distance_to_full_loops") & here["setting"].notna()]
    wanted = 0.75 * float(here["max_loops"].iloc[0])
    for number, (rule, of_rule) in enumerate(ends.groupby("rule")):
        taken = of_rule.groupby("setting")[["loops_per_sample", "value"]].mean()
        nearest = int((taken["loops_per_sample"] - wanted).abs().to_numpy().argmin())
        at = steps[(steps["rule"] == rule) & (steps["setting"] == taken.index[nearest])]
        curve = at.groupby("sampling_step")[["loops_per_sample", "loops_per_batch"]].mean()
        look = _look(number) | (OF_FIXED if rule == "fixed" else {})
        label = f"{rule}: {taken['value'].iloc[nearest]:.3g} away"
        axis.plot(curve.index, curve["loops_per_sample"], label=label, **look)
        if rule != "fixed":
            axis.plot(curve.index, curve["loops_per_batch"], **{**look, "ls": "--", "marker": "", "alpha": 0.5})
    axis.set(xlabel="sampling step", ylabel="mean loops", title=title)
    axis.legend(fontsize=7, frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.1))


def _look(number: int) -> dict[str, Any]:
    from eltbench.evidence import figures

    style = figures.CLEAREST[number % len(figures.CLEAREST)]
    return {"color": figures.PALETTE[style], "marker": figures.MARKERS[style], "ms": 3, "lw": 1.2}
