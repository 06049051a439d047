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
# # N×L: how should a depth be made of N unique layers and L loops?
#
# Heat maps of the held-out loss over N and L, and what becomes of a block that is too small. Rows: study `depth_grid`,
# preset `digits`, which `python -m eltbench.studies.depth_grid --preset digits` makes; here they are only looked at.

# %%
# %matplotlib inline
from pathlib import Path

import matplotlib.pyplot as plt
import seaborn as sns

import eltbench
from eltbench import studies
from eltbench.evidence import figures, verdicts
from eltbench.studies import deciding

folder = Path("../results/depth_grid/digits")
rows = eltbench.load_rows(folder)
study = studies.create("depth_grid")
summary = study.summarise(rows)
losses = summary.query("metric == 'heldout_loss' and stratum.isna()").astype({"loops": int, "unique_layers": int})
cells = list(losses.groupby(["task", "world"]))

# %% [markdown]
# ## Every N at every L
#
# Mean loss over seeds of the elastic models at each of their exits, each trained for eight layers of depth: at 8 loops
# for N = 1, 4 for N = 2, 2 for N = 4 (framed). The row N = 8 is unique depth. Lower is darker; along a diagonal, where
# N·L is the same, so is compute.

# %%
canvas, axes = plt.subplots(1, len(cells), figsize=(7 * len(cells), 2.6), layout="constrained", squeeze=False)
for axis, ((task, world), here) in zip(axes.flat, cells, strict=True):
    elastic = here.query("role == 'main' or (trainer == 'unique-depth' and role == 'equal-compute')")
    table = elastic.pivot(index="unique_layers", columns="loops", values="mean")
    sns.heatmap(table, ax=axis, cmap="viridis", annot=True, fmt=".3g", annot_kws={"size": 7}, robust=True)
    for layers, loops in elastic[["unique_layers", "max_loops"]].drop_duplicates().itertuples(index=False):
        at = table.columns.get_loc(loops), table.index.get_loc(layers)
        axis.add_patch(plt.Rectangle(at, 1, 1, fill=False, ec="#b34700", lw=2))
    axis.set(xlabel="loops at inference, L", ylabel="unique layers, N", title=f"{task} · {world}: held-out loss")

# %% [markdown]
# ## Too few unique layers
#
# The same compute in every column: eight layers' worth, made of ever fewer unique ones. Bars are 95 % intervals over
# seeds. One layer in eight loops is worst in both worlds, although its curve, too, falls with the loops.

# %%
canvas, axes = plt.subplots(1, len(cells), figsize=(5 * len(cells), 3.2), layout="constrained", squeeze=False)
for axis, ((task, world), here) in zip(axes.flat, cells, strict=True):
    deep = here[(here["loops"] == here["max_loops"]) & (here["effective_depth"] == 8)]
    deep = deep[deep["role"].isin(["main", "equal-compute"])].sort_values("unique_layers")
    mean, (low, high) = deep["mean"].to_numpy(), figures.bounds(deep)
    names = [f"{n}N×{loops}L" for n, loops in deep[["unique_layers", "max_loops"]].itertuples(index=False)]
    axis.errorbar(names, mean, [mean - low, high - mean], fmt="o", capsize=3, color=figures.PALETTE[0])
    axis.set(ylabel="held-out loss", title=f"{task} · {world}")

# %% [markdown]
# ## The verdicts that follow
#
# Each effect is a loss over another, paired by seed; intervals are widened over the claims of the study.

# %%
decided = verdicts.frame(deciding.decide_published(folder))
decided[["claim", "task", "estimand", "witness", "estimate", "low", "high", "verdict", "cell_verdict", "n"]]
