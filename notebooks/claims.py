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
# # All verdicts, with forest plots
#
# Every published preset of every study, decided anew from its rows. `eltbench report` writes the same as one page.

# %%
# %matplotlib inline
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import eltbench
from eltbench.evidence import verdicts
from eltbench.evidence.report import published
from eltbench.studies import deciding

results, found = Path("../results"), []
# smoke and quick are left out: what they print is no result; without any, the error says what to run
for folder in [*published.folders(results)] or [results / "extrapolation" / "digits"]:
    rows = eltbench.load_rows(folder)
    study, preset = (rows[name].iloc[0] for name in ("study", "preset"))
    decided = verdicts.frame(deciding.decide_published(folder))
    found.append(decided.assign(study=study, preset=preset))
found = pd.concat(found, ignore_index=True)
found.groupby(["study", "preset", "claim"])["cell_verdict"].agg(lambda here: ", ".join(sorted(set(here))))

# %% [markdown]
# Each line is one effect with its interval, widened over the claims of its study; the band is the region that was
# stated before the run. Supported (dots): the interval lies inside. Contradicted (crosses): outside. Inconclusive
# (squares): neither. Scales differ from claim to claim.

# %%
looks = {"supported": ("#0072b2", "o"), "contradicted": ("#b34700", "X"), "inconclusive": ("#595959", "s")}
primary = found[found["witness"] == "primary"].dropna(subset=["estimate", "low", "high"])
groups = list(primary.groupby(["claim", "condition"], sort=False))
heights = [len(here) + 2 for _, here in groups]
canvas, axes = plt.subplots(len(groups), figsize=(10, 0.3 * sum(heights)), height_ratios=heights, layout="constrained")
for axis, ((claim, _), here) in zip(np.atleast_1d(axes), groups, strict=True):
    for place, line in enumerate(here.itertuples()):
        colour, marker = looks[line.cell_verdict]
        axis.plot([line.low, line.high], [place, place], color=colour, lw=2)
        axis.plot(line.estimate, place, marker, color=colour, ms=5)
    left, right = axis.get_xlim()
    axis.axvspan(*np.clip([line.region_low, line.region_high], left, right), color="#cfe3f1", zorder=0)
    axis.axvline(0, color="0.6", ls=":")
    about = here[["preset", "task", "dataset", "backend"]].agg(" ".join, axis=1)
    axis.set(xlim=(left, right), ylim=(len(here) - 0.4, -0.6))
    axis.set_yticks(range(len(here)), about, fontsize=7)
    axis.set_title(textwrap.fill(f"{claim}: {line.estimand} ({line.scale})", 72), fontsize=8, loc="left")

# %% [markdown]
# ## As numbers

# %%
found[["study", "preset", "claim", "task", "backend", "witness", "estimate", "low", "high", "cell_verdict", "n"]]
