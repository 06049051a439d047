# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Do exits tell where the model is wrong, and can it stop early?
#
# Risk–coverage and stopping curves from the rows of the study `disagreement`, every published preset, made by commands
# such as `python -m eltbench.studies.disagreement --preset digits`; this notebook only looks at them.

# %%
# %matplotlib inline
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

import eltbench
from eltbench.evaluation.signals.per_sample import ERRORS
from eltbench.evidence import figures, verdicts
from eltbench.evidence.report import published
from eltbench.studies import deciding
from eltbench.studies.disagreement import figure as disagreement_curves

root = Path("../results/disagreement")
folders = [*published.folders(root)] or [root / "digits"]  # without any, the error says what to run
presets = {folder.name: eltbench.load_rows(folder) for folder in folders}
rows = pd.concat(presets.values(), ignore_index=True)
elt = rows[(rows["trainer"] == "elt") & (rows["role"] == "main")]
cells = list(elt.groupby(["task", "dataset", "backend"]))
{name: len(here) for name, here in presets.items()}

# %% [markdown]
# ## Keeping what the model is sure of
#
# Answer only where a signal is low: the smaller the share that is answered (coverage), the lower the error of what is
# answered should be (risk). The area between a signal's curve and that of the oracle, which knows the errors, is its
# excess; 0 is perfect. Pooled over all items a signal may score by rediscovering how much was hidden; within strata of
# corruption it cannot. Bars span the seeds.

# %%
areas = elt[(elt["metric"] == "excess_aurc") & (elt["loops"] == elt["max_loops"]) & elt["target"].isin(ERRORS)]
canvas, axes = plt.subplots(1, len(cells), figsize=(5.4 * len(cells), 5), layout="constrained", squeeze=False)
for axis, (cell, here) in zip(axes.flat, areas.groupby(["task", "dataset", "backend"]), strict=True):
    by = here.pivot_table(index="signal", columns="scope", values="value", aggfunc=["mean", "min", "max"])
    by = by.sort_values(("mean", "within"), ascending=False)
    for number, scope in enumerate(("within", "pooled")):
        colour = figures.PALETTE[number]
        axis.hlines(range(len(by)), by["min", scope], by["max", scope], color=colour, lw=3, alpha=0.4)
        axis.plot(by["mean", scope], range(len(by)), "os"[number], color=colour, ms=4, label=scope)
    axis.set_yticks(range(len(by)), by.index.str.replace("_", " "), fontsize=7)
    axis.set(xlabel="excess area under risk–coverage", title=" · ".join(cell[:2]))
key = axes[0, 0].legend(fontsize=7)

# %% [markdown]
# The curves themselves, at L_max and within strata, where they were measured (since version 3 of the study):

# %%
curved = [(cell, here) for cell, here in cells if (here["metric"] == "risk_at_coverage").any()]
if curved:
    canvas, axes = plt.subplots(1, len(curved), figsize=(5.4 * len(curved), 4.2), layout="constrained", squeeze=False)
    for axis, (cell, here) in zip(axes.flat, curved, strict=True):
        disagreement_curves.risk_coverage(axis, here, " · ".join(cell[:2]))
else:
    print("these rows hold no curves; `python -m eltbench.studies.disagreement --preset digits --force` measures them")

# %% [markdown]
# ## Stopping early
#
# A rule ends an item at the first exit whose signal is below a threshold; each point is one threshold, a mean over
# seeds. Filled: mean loops a sample, where stopped items leave the batch. Hollow: a batch of 64 runs on until its last
# item stops. `fixed` stops all items at one depth and is the rule to beat; `oracle` knows the errors.

# %%
points = elt[(elt["metric"] == "excess_error") & elt["rule"].notna()]
rules = sorted(set(points["rule"]))
canvas, axes = plt.subplots(1, len(cells), figsize=(5.4 * len(cells), 4.2), layout="constrained", squeeze=False)
for axis, (cell, here) in zip(axes.flat, points.groupby(["task", "dataset", "backend"]), strict=True):
    for rule, curve in here.groupby("rule"):
        mean = curve.groupby("setting")[["loops_per_sample", "loops_per_batch", "value"]].mean()
        style = {"color": figures.PALETTE[rules.index(rule) % 10], "marker": figures.MARKERS[rules.index(rule) % 10]}
        style |= {"color": "0.3"} if rule in ("fixed", "oracle") else {}
        axis.plot(mean["loops_per_sample"], mean["value"], **style, label=rule, ms=4, lw=1)
        axis.plot(mean["loops_per_batch"], mean["value"], **style, ls="", mfc="white", ms=4, alpha=0.5)
    axis.axhline(0, color="0.4", lw=1)
    axis.set(xlabel="mean loops", ylabel=f"{here['target'].iloc[0].replace('_', ' ')} above L_max")
    axis.set_title(" · ".join(cell[:2]))
lines = {line.get_label(): line for axis in axes.flat for line in axis.get_lines() if line.get_label() in rules}
key = canvas.legend(lines.values(), lines, loc="outside lower center", ncols=6, fontsize=7)

# %% [markdown]
# ## Stopping with a guarantee
#
# Thresholds from calibration items, tried on 200 random sets of them, at α = 0.05. `violations` is the share of sets
# whose risk exceeded α; learn-then-test promises at most a tenth. Means over seeds.

# %%
held = elt.query("guarantee.notna() and alpha == 0.05 and scope != 'sampling'")
held.pivot_table(index=["task", "dataset", "guarantee", "rule"], columns="metric", values="value").round(3)

# %% [markdown]
# ## The verdicts that follow

# %%
decided = {name: verdicts.frame(deciding.decide_published(root / name)) for name in presets}
shown = ["claim", "task", "dataset", "estimand", "estimate", "low", "high", "cell_verdict", "n"]
pd.concat(decided, names=["preset"])[shown]
