"""What the fuzz tests change: the runs of a small cache, and a published folder of results."""

from __future__ import annotations

from pathlib import Path

from eltbench.core.config import Architecture, Optimisation, Run

SIZES = Architecture(unique_layers=1, max_loops=2, width=8, heads=2)
STEPS = Optimisation(steps=2, batch_size=4, warmup_steps=1)
TRAINED = {
    "digits": Run("elt", "diffusion", "digits", architecture=SIZES, optimisation=STEPS),
    "codes": Run("elt", "masked", "digits-codes", architecture=SIZES, optimisation=STEPS),
    "relay": Run("elt", "masked", "relay", architecture=SIZES, optimisation=STEPS),
}
PUBLISHED = Path(__file__).parents[2] / "results" / "extrapolation" / "relay"
