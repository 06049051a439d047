"""Tiny runs of every kind of model, to be trained and asked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from eltbench.core.config import Architecture, Optimisation, Run

SMALL = Architecture(unique_layers=1, max_loops=3, width=16, heads=2)
OPTIMISATION = Optimisation(steps=3, batch_size=8, learning_rate=1e-2, warmup_steps=1)
RUNS = {
    "diffusion": Run("elt", "diffusion", "digits", architecture=SMALL, optimisation=OPTIMISATION),
    "masked": Run(
        "elt", "masked", "digits-codes", architecture=replace(SMALL, block="bert"), optimisation=OPTIMISATION
    ),
    "relay": Run("elt", "masked", "relay", architecture=replace(SMALL, block="bert"), optimisation=OPTIMISATION),
    "unique": Run(
        "unique-depth",
        "diffusion",
        "digits",
        architecture=replace(SMALL, unique_layers=2, max_loops=1),
        optimisation=OPTIMISATION,
    ),
    "universal": Run("universal-transformer", "diffusion", "digits", architecture=SMALL, optimisation=OPTIMISATION),
}
LABELS = np.arange(6)

every_looped_model = pytest.mark.parametrize("model", ["diffusion", "masked", "universal"], indirect=True)
