"""What drawing a batch costs beside a training step, and what the residual scale does: printed, not asserted.

pytest tests/benchmarks --benchmark-enable -s
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from timed_pairs import interleaved, say, seconds

from eltbench.core.config import Architecture, Optimisation, Run
from eltbench.core.streams import stream
from eltbench.training.loop import build_engine, parts

WORLDS = {
    "group": {"group": "a5"},
    "latin": {},
    "maze": {"rooms": 4},
    "relay": {},
    "sudoku": {"size": 4, "puzzles": 256, "hardest": 1, "heldout_items": 16},
}


def run_of(world: str) -> Run:
    architecture = Architecture(width=64, block="bert", residual_scale="loops")
    options = tuple(WORLDS[world].items())
    optimisation = Optimisation(batch_size=64)
    return Run("elt", "masked", world, architecture=architecture, optimisation=optimisation, dataset_options=options)


def step_of(run: Run) -> Callable[[], object]:
    """A training step on one batch, at two exits that stay."""
    made, engine = parts(run), build_engine(run)
    clean = made.dataset.batch(stream(run.dataset, 0, "batch"), run.optimisation.batch_size)
    batch = made.task.corrupt(clean, made.dataset.spec, stream(run.dataset, 0, "corruption"), 0.0)
    return lambda: float(engine.step(batch, (2, 4), 0.5, 1e-3)["loss"])


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS)
def test_a_batch_costs_little_beside_a_step(world, rounds):
    run = run_of(world)
    dataset, step = parts(run).dataset, step_of(run)

    def draw() -> object:
        return dataset.batch(np.random.default_rng(0), run.optimisation.batch_size)

    draw()
    step()
    ratios = np.array([seconds(draw) / seconds(step) for _ in range(max(1, rounds // 3))])
    assert (ratios > 0).all()
    say(f"{world}: a batch over a training step", ratios, 0.03)


@pytest.mark.slow
def test_the_residual_scale_costs_nothing(rounds):
    run = run_of("latin")
    plain = replace(run, architecture=replace(run.architecture, residual_scale="none"))
    scaled, without = step_of(run), step_of(plain)
    for _ in range(min(rounds, 5)):
        scaled()
        without()
    say("a step with residual scale over one without", interleaved(scaled, without, rounds), "1.00 ± 0.02")
