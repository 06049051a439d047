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
# # Your own trainer, in every study
#
# A trainer says which exits to read at a step, and how their outputs become named loss terms. This is a whole one: it
# supervises the last exit and a random earlier one, each weighted by its depth. It needs no file: the processes that
# train it are given its source, with the imports, functions and plain values that it names.

# %%
# %matplotlib inline
import tempfile
from dataclasses import dataclass
from pathlib import Path

import eltbench
from eltbench import plot, trainers


@trainers.register("depth-weighted", version=1)
@dataclass(frozen=True)
class DepthWeighted(trainers.Trainer):
    """Shared block, supervised at the last exit and at a random earlier one, each weighted by its depth."""

    depth = "looped"

    def exits(self, architecture, rng):
        return (int(rng.integers(1, architecture.max_loops)), architecture.max_loops)

    def objective(self, outputs, batch, progress, task, ops):
        early, last = (task.loss(output, batch, ops) for output in outputs)
        return {"early": 0.25 * early, "last": 0.75 * last}


# %% [markdown]
# The smoke preset of `extrapolation`, with the new trainer added (`+`). It is far too small to judge anything; `quick`
# and `digits` are run in the same way, and so is every other study.

# %%
place = Path(tempfile.mkdtemp())
found = eltbench.run_study(
    "extrapolation",
    "smoke",
    tasks="diffusion",
    trainers=["elt", "+depth-weighted"],
    runs=place / "runs",
    results=place,
    progress=False,
)
{decision.claim.id: decision.verdict for decision in found.decisions}

# %% [markdown]
# It is a trainer like every other now: in the table, in the figure, in the claims that compare trainers.

# %% tags=["varies"]
rows = eltbench.load_rows(found.folder)
losses = rows.query("metric == 'heldout_loss' and stratum.isna()")
losses.pivot_table(index="loops", columns="trainer", values="value").round(4)

# %%
found.figure()

# %% [markdown]
# Its samples, a row a loop count, all from the same noise.

# %%
(run_id,) = rows.query("trainer == 'depth-weighted' and seed == 0")["run_id"].unique()
plot.samples_by_loops(eltbench.load_model(run_id, runs=place / "runs"), loops=range(1, 7))
