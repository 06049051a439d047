"""FLOPs of a run's training steps, each by the exits that its trainer reads there."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from eltbench import accounting
from eltbench.core.config import Run
from eltbench.core.streams import stream
from eltbench.training.loop import Parts


def item_flops(run: Run, made: Parts, steps: Sequence[int]) -> np.ndarray:
    """FLOPs per item of each of these training steps (steps,), forward and backward, at the exits that it reads."""
    phantom_steps = made.trainer.solver(run.architecture).phantom_steps

    @cache
    def count(exits: tuple[int, ...]) -> float:
        learns = made.trainer.learns(exits)
        return float(sum(accounting.step_flops(made.network, exits[-1], len(exits), phantom_steps, learns).values()))

    streams = (stream(run.dataset, run.seed, "exits", step) for step in steps)
    return np.array([count(tuple(made.trainer.exits(run.architecture, each))) for each in streams])
