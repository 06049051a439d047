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
# # Past L_max: what happens to quality, and what the state does meanwhile
#
# Rows of the study `extrapolation` (preset `digits`: five seeds, both tasks, all trainers and controls), which `python
# -m eltbench.studies.extrapolation --preset digits` makes; this notebook only looks at them.

# %%
# %matplotlib inline
from pathlib import Path

import matplotlib.pyplot as plt
import seaborn as sns
from IPython.display import Image, display

import eltbench
from eltbench import studies
from eltbench.evidence import figures, verdicts
from eltbench.studies import deciding

folder = Path("../results/extrapolation/digits")
rows = eltbench.load_rows(folder)
study = studies.create("extrapolation")
summary = study.summarise(rows)
f"{len(rows)} rows, {rows['run_id'].nunique()} runs, seeds {sorted(rows['seed'].unique().tolist())}"

# %% [markdown]
# ## Quality by loops
#
# Held-out loss and the kernel distance of samples, with 95 % intervals over seeds. Dotted: L_max. Squares: models
# trained for that very depth.

# %%
study.figure(rows)

# %% [markdown]
# Relative to the loss at L_max, each seed's by itself:

# %%
losses = rows.query("metric == 'heldout_loss' and role == 'main' and max_loops > 1 and stratum.isna()")
at_max = losses.query("loops == max_loops").set_index("run_id")["value"]
relative = losses["value"] / losses["run_id"].map(at_max)
losses = losses.assign(relative=relative, multiple=losses["loops"] / losses["max_loops"])
look = {"kind": "line", "palette": "colorblind", "errorbar": ("pi", 100)}  # bands span the seeds
shown = sns.relplot(losses, x="multiple", y="relative", hue="trainer", col="task", **look)
shown.set(xlabel="loops / L_max", ylabel="loss over that at L_max", yscale="log")
for axis in shown.axes.flat:
    axis.axhline(1, color="0.5", ls=":")

# %% [markdown]
# ## Samples by loops
#
# One model, the same noise in every row; the study's command draws these beside its rows.

# %%
pictures = sorted(folder.glob("samples-*.png"))
for picture in pictures:
    display(Image(filename=str(picture)))
if not pictures:
    print("none lies beside these rows; `python -m eltbench.studies.extrapolation --preset digits` draws them")

# %% [markdown]
# ## What the state does
#
# A loop that has converged changes nothing more: its relative update norm is zero, and where the spectral radius of
# its Jacobian lies below one, a small disturbance dies out. Here neither is so: the radius stays above one and updates
# shrink while their cosine nears one, so past L_max the state drifts on in one direction, ever more slowly. That is no
# fixed point.

# %%
told = ("relative_update_norm", "update_cosine", "relative_acceleration", "spectral_radius", "perturbation_recovery")
trajectory = summary[summary["metric"].isin(told) & (summary["role"] == "main") & summary["stratum"].isna()]
cells = list(trajectory.groupby("task"))
canvas, axes = plt.subplots(len(cells), len(told), figsize=(16, 6), layout="constrained", squeeze=False)
for line, (task, here) in zip(axes, cells, strict=True):
    for axis, metric in zip(line, told, strict=True):
        for model, curve in figures.models(here[here["metric"] == metric], here):
            axis.plot(curve["loops"].to_numpy(float), curve["mean"], label=model.label, ms=3, **model.line)
        axis.set(xlabel="loops")
        axis.set_title(f"{task}: {metric.replace('_', ' ')}", fontsize=9)
key = axes[0, 0].legend(fontsize=7)

# %% [markdown]
# ## The verdicts that follow
#
# The command prints this table as well; [claims](claims.ipynb) shows all studies together.

# %%
decided = verdicts.frame(deciding.decide_published(folder))
decided[["claim", "task", "estimand", "witness", "estimate", "low", "high", "verdict", "cell_verdict", "n"]]
