# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your own trainer, in every study
#
# A trainer says which exits to read at a step, and how their outputs become named loss terms. This is a whole one: it
# supervises the last exit and a random earlier one, each weighted by its depth. It is written to a file, because a
# sweep trains in processes of its own.

# %%
# %matplotlib inline
import subprocess
import sys
import tempfile
from pathlib import Path

import eltbench
from eltbench import studies

place = Path(tempfile.mkdtemp())
(place / "my_trainer.py").write_text('''
from dataclasses import dataclass

from eltbench.trainers import Trainer


@dataclass(frozen=True)
class DepthWeighted(Trainer):
    """Shared block, supervised at the last exit and at a random earlier one, each weighted by its depth."""

    version = 1
    depth = "looped"

    def exits(self, architecture, rng):
        return (int(rng.integers(1, architecture.max_loops)), architecture.max_loops)

    def objective(self, outputs, batch, progress, task, ops):
        early, last = (task.loss(output, batch, ops) for output in outputs)
        return {"early": 0.25 * early, "last": 0.75 * last}
''')

# %% [markdown]
# The smoke preset of `extrapolation`, with the new trainer added (`+`). It is far too small to judge anything; `quick`
# and `digits` are run in the same way.

# %%
command = [sys.executable, "-m", "eltbench.studies.extrapolation", "--preset", "smoke", "--tasks", "diffusion"]
command += ["--trainers", "elt", "+my_trainer:DepthWeighted", "--runs", str(place / "runs"), "--results", str(place)]
done = subprocess.run(command, cwd=place, capture_output=True, text=True)
print(done.stdout, done.stderr)
assert done.returncode == 0

# %% [markdown]
# It is a trainer like every other now: in the table, in the figure, in the claims that compare trainers.

# %%
rows = eltbench.load_rows(place / "extrapolation" / "smoke")
losses = rows.query("metric == 'heldout_loss' and stratum.isna()")
losses.pivot_table(index="loops", columns="trainer", values="value").round(4)

# %%
studies.create("extrapolation").figure(rows)
