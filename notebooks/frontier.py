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
# # Quality against loops, parameters and compute; the elastic gap
#
# What one elastic model gives at each of its exits, beside the controls that a sceptic asks for: a model trained for
# that very depth, and the unique-depth model of equal compute. Rows: study `extrapolation`, preset `digits`.

# %%
# %matplotlib inline
from pathlib import Path

import matplotlib.pyplot as plt

import eltbench
from eltbench import studies
from eltbench.evidence import figures

rows = eltbench.load_rows(Path("../results/extrapolation/digits"))
summary = studies.create("extrapolation").summarise(rows)
losses = summary.query("metric == 'heldout_loss' and stratum.isna() and loops <= max_loops")

# %% [markdown]
# ## Loss against each cost
#
# One point is one exit of one kind of model; bars are 95 % intervals over seeds. Compute counts the
# multiply-accumulates of one network call of one item. Loops share parameters, so an elastic model is a vertical line
# in the middle panel.

# %%
costs = {"loops": "loops L", "params": "parameters", "macs": "MACs a call"}
cells = list(losses.groupby(["task", "dataset"]))
canvas, axes = plt.subplots(len(cells), len(costs), figsize=(15, 8), layout="constrained", squeeze=False)
for line, ((task, dataset), here) in zip(axes, cells, strict=True):
    for axis, (cost, label) in zip(line, costs.items(), strict=True):
        for model, curve in figures.models(here):
            curve = curve.sort_values("loops")
            mean, (low, high) = curve["mean"].to_numpy(), figures.bounds(curve)
            at = curve[cost].to_numpy(float)
            axis.errorbar(at, mean, [mean - low, high - mean], label=model.label, ms=4, **model.line)
        axis.set(xscale="linear" if cost == "loops" else "log", xlabel=label, ylabel="held-out loss")
        axis.set_title(f"{task} · {dataset}")
key = axes[0, 0].legend(fontsize=7)

# %% [markdown]
# ## The elastic gap
#
# How much higher the loss of one elastic model is than that of a model trained for the depth at hand, and than that of
# unique layers at equal compute; in percent, paired by seed.

# %%
gaps = summary[summary["metric"].str.startswith("gap_to")]
gaps[["task", "metric", "loops", "effective_depth", "mean", "low", "high", "seeds"]].round(2)
