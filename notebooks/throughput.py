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
# # What sharing weights buys on a machine, and why
#
# Looped networks beside networks of as many unique layers, timed in fresh processes, under a roofline measured in the
# same run. Rows: every published preset of the study `throughput`. Times are those of the machine that is named; to see
# your own, run the command and then this notebook.

# %%
# %matplotlib inline
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import display

import eltbench
from eltbench import studies
from eltbench.evidence import figures, verdicts
from eltbench.evidence.report import published
from eltbench.studies import deciding
from eltbench.studies.throughput import tables

root = Path("../results/throughput")
presets = {folder.name: eltbench.load_rows(folder) for folder in published.folders(root)}
study = studies.create("throughput")
if not presets:
    print("nothing is published yet; `python -m eltbench.studies.throughput --preset cpu` makes it in eight minutes on")
    print("two idle cores, `--preset gpu` on a CUDA device; run it where results/ is, then this notebook again")
for name, rows in presets.items():
    print(f"preset {name}", *tables.machine(rows), sep="\n")

# %% [markdown]
# ## The roofline
#
# Every network call of each cell: what it computes (FLOPs a second) against what it computes for each byte of weights
# that it reads. Both networks of a cell do the same arithmetic on as many bytes, so they stand above one another; what
# differs is where the bytes come from. The roofs are bandwidth times intensity, of the smallest and of the largest
# working set that was measured, and the best matrix product.

# %%
for name, rows in presets.items():
    ceilings, calls = rows[rows["measure"] == "ceiling"], rows[rows["metric"] == "call_seconds"]
    calls = calls[calls["measure"].isin(["call", "self"])]
    if calls.empty:
        continue
    mean = calls.groupby(["name", "role", "flops", "batch_size", "unique_bytes"])["value"].median().reset_index()
    work = mean["flops"] * mean["batch_size"]
    mean = mean.assign(intensity=work / mean["unique_bytes"], speed=work / mean["value"])
    canvas, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
    reads = ceilings[ceilings["metric"] == "read_bytes_per_second"].sort_values("bytes")
    reach = mean["intensity"].agg(["min", "max"]).to_numpy() * [0.5, 2]
    for style, (_, step) in zip(("--", ":"), reads.iloc[[0, -1]].iterrows(), strict=True):
        label = f"read again and again: {step['bytes'] / 2**20:.3g} MB"
        axis.plot(reach, step["value"] * reach, color="0.4", ls=style, label=label)
    for number, (_, peak) in enumerate(ceilings[ceilings["metric"] == "peak_flops_per_second"].iterrows()):
        axis.axhline(peak["value"], color=figures.PALETTE[7 + number], label=f"best product, {peak['precision']}")
    for number, (role, here) in enumerate(mean.groupby("role")):
        style = {"color": figures.PALETTE[number], "marker": figures.MARKERS[number], "ls": "", "ms": 5}
        axis.plot(here["intensity"], here["speed"], label=role, **style)
    axis.set(xscale="log", yscale="log", xlabel="FLOPs a byte of weights", ylabel="FLOPs a second", title=name)
    axis.legend(fontsize=7)

# %% [markdown]
# ## Where looping pays
#
# The study's own figure: measured ratios by the size of the shared block, beside what the roofline predicts, the share
# of the ceiling that is reached, and the bandwidths.

# %%
for rows in presets.values():
    display(study.figure(rows))
    print(*study.remarks(rows), sep="\n")

# %% [markdown]
# ## Ratios
#
# Geometric means over processes with 95 % intervals; a ratio above 1 is in favour of the looped network, except for
# those that compare costs of training. Where a value is missing, the reason stands beside it.

# %%
measured, foretold = ["mean", "low", "high"], ["predicted", "roofline", "regime"]
told = ["name", "metric", "role", *measured, *foretold, "processes", "noisy", "reason"]
for rows in presets.values():
    summary = study.summarise(rows)
    with pd.option_context("display.max_rows", 200):
        display(summary.loc[~summary["metric"].str.endswith(("_seconds", "_bytes", "_per_second")), told].round(3))

# %% [markdown]
# ## The verdicts that follow

# %%
for name in presets:
    decided = verdicts.frame(deciding.decide_published(root / name))
    shown = ["claim", "task", "dataset", "estimand", "estimate", "low", "high", "cell_verdict", "n"]
    display(decided[shown] if len(decided) else f"{name}: no claim's cells were all measured")
