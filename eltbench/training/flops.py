"""FLOPs of a run's training steps, each by the exits that its trainer reads there."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from eltbench import accounting
from eltbench.core.config import Run
from eltbench.core.streams import stream
from eltbench.trainers.exits import Pass, passes
from eltbench.training.loop import Parts


def item_flops(run: Run, made: Parts, steps: Sequence[int]) -> np.ndarray:
    """FLOPs per item of each of these training steps (steps,), forward and backward, at the exits that it reads."""
    phantom_steps = made.trainer.solver(run.architecture).phantom_steps

    @cache
    def count(exits: Pass) -> float:
        read, since = exits
        learns = made.trainer.learns(read)
        return float(
            sum(accounting.step_flops(made.network, read[-1], len(read), phantom_steps, learns, since or 0).values())
        )

    streams = (stream(run.dataset, run.seed, "exits", step) for step in steps)
    return np.array([sum(map(count, passes(made.trainer.exits(run.architecture, each)))) for each in streams])
