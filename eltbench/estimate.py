"""How long missing runs will take: as long as the same runs took here before, else from this machine's speed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from eltbench import accounting
from eltbench.config import Run
from eltbench.sweep import Durations
from eltbench.training import parts

SHARE_OF_PEAK = 0.3  # of the matrix-product rate that training reaches at small widths; measurement included
START = 8.0  # seconds to start a process and load its libraries


def estimated_seconds(runs: Sequence[Run], workers: int, known: Durations) -> float:
    """Seconds until `runs` are made by `workers` processes; a guess where no run of that kind was made here.

    Where only a measurement is missing and none was made yet, the guess is the start of its process.
    """
    rate = None
    total = longest = 0.0
    kinds = Counter((replace(run, seed=0), known.to_train(run)) for run in runs)
    examples = {(replace(run, seed=0), known.to_train(run)): run for run in runs}
    for key, count in kinds.items():
        run = examples[key]
        seconds = known.mean(run)
        if seconds is None:
            rate = rate or matrix_rate()
            seconds = START + known.to_train(run) * training_flops(run) / (SHARE_OF_PEAK * rate)
        total, longest = total + count * seconds, max(longest, seconds)
    return max(total / workers, longest)


def training_flops(run: Run) -> float:
    """FLOPs of a whole training: forward, and twice that backward, at L_max; at equilibrium depth as it is done."""
    made, loops = parts(run), run.architecture.max_loops
    shape = (run.architecture, made.trainer.depth, made.dataset.spec, made.task.timed)
    per_item = 3 * 2 * accounting.macs(*shape, loops)
    if made.trainer.depth == "equilibrium":
        steps = made.trainer.solver(run.architecture).phantom_steps
        per_item = sum(accounting.step_flops(*shape, loops, phantom_steps=steps).values())
    return float(per_item) * run.optimisation.batch_size * run.optimisation.steps


def matrix_rate(size: int = 512) -> float:
    """FLOP/s of single-precision matrix products on this machine now, the best of a few."""
    matrix = np.ones((size, size), np.float32)
    best = min(_seconds(matrix) for _ in range(5))
    return 2 * size**3 / best


def _seconds(matrix: np.ndarray) -> float:
    start = time.perf_counter()
    matrix @ matrix
    return time.perf_counter() - start
