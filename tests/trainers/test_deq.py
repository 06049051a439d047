"""The deep equilibrium trainer: what it asks for, what it refuses, and that it learns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from eltbench import tasks, trainers
from eltbench.core.config import Architecture, Optimisation, Run
from eltbench.core.fixed_point import Solver
from eltbench.core.streams import stream
from eltbench.training.loop import build_engine, parts

INJECTED = Architecture(unique_layers=1, max_loops=4, width=16, heads=2, input_injection=True)


def small_run(**options):
    optimisation = Optimisation(steps=300, batch_size=32, warmup_steps=20, learning_rate=3e-3)
    return Run("deq", "diffusion", "digits", architecture=INJECTED, optimisation=optimisation, **options)


def batch_of(run, step=0):
    made = parts(run)
    clean = made.dataset.batch(stream(run.dataset, 0, "batch", step), run.optimisation.batch_size)
    return made.task.corrupt(clean, made.dataset.spec, stream(run.dataset, 0, "corruption", step))


def test_it_is_supervised_by_the_ground_truth_where_l_max_loops_have_come():
    run, judge = small_run(), tasks.create("diffusion")
    engine = build_engine(run)
    batch = engine.upload(batch_of(run))
    (output,) = engine.network(batch.inputs, batch.labels, batch.context, batch.log_snr, (4,))
    expected = float(judge.loss(output, batch, engine.ops).detach())
    trainer = trainers.create("deq")
    assert trainer.exits(run.architecture, np.random.default_rng(0)) == (4,)
    values = engine.step(batch_of(run), (4,), 0.5, 1e-3)
    assert values.keys() == {"last", "loss", "gradient_norm"}
    assert float(values["last"]) == pytest.approx(expected, rel=1e-6)


def test_its_options_are_the_solvers():
    options = {"memory": 3, "mixing": 0.8, "ridge": 1e-3, "phantom_steps": 2, "damping": 0.9}
    assert trainers.create("deq", **options).solver(INJECTED) == Solver(**options)
    assert trainers.create("deq").solver(INJECTED) == Solver(memory=5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_injection": False}, "expected input_injection = true, given false"),
        ({"loop_embedding": True}, "expected loop_embedding = false, given true"),
        ({"loop_conditioning": True}, "expected loop_conditioning = false, given true"),
        ({"loop_adapter_rank": 2}, "expected loop_adapter_rank = 0, given 2"),
    ],
)
def test_loops_that_are_not_one_map_of_state_and_input_are_refused_before_training(changes, message):
    with pytest.raises(ValueError, match=message):
        parts(replace(small_run(), architecture=replace(INJECTED, **changes)))


@pytest.mark.parametrize("options", [{"memory": -1}, {"damping": 0.0}, {"phantom_steps": 0}, {"mixing": float("inf")}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=f"solver: {next(iter(options))} must be"):
        trainers.create("deq", **options)


def test_a_ridge_below_single_precision_is_refused():
    trainers.create("deq", memory=0, ridge=1e-9).check(INJECTED)
    with pytest.raises(ValueError, match="ridge must be at least 1e-05 for a network, given 1e-09"):
        trainers.create("deq", ridge=1e-9).check(INJECTED)


def test_with_an_attention_radius_it_iterates_plainly_and_refuses_to_accelerate():
    """Anderson acceleration would carry information across the light cone."""
    near = replace(INJECTED, attention_radius=1)
    assert trainers.create("deq").solver(near).memory == 0
    trainers.create("deq").check(near)
    trainers.create("deq", memory=0).check(near)
    with pytest.raises(ValueError, match=r"give memory = 0 .* given memory = 2 and attention_radius = 1"):
        trainers.create("deq", memory=2).check(near)


@pytest.mark.slow
def test_training_lowers_the_loss_and_further_loops_keep_it():
    run, judge = small_run(), tasks.create("diffusion")
    engine, made = build_engine(run), parts(run)
    clean = made.dataset.heldout()
    (batch,) = made.task.heldout(clean, made.dataset.spec, stream(run.dataset, 0, "heldout"), 1)
    batch = engine.upload(batch)

    def losses():
        return [float(judge.loss(output, batch, engine.ops)) for output in engine.predict(batch, (4, 32))]

    before = losses()
    for step in range(run.optimisation.steps):
        engine.step(batch_of(run, step), (4,), 0.0, 3e-3)
    after = losses()
    assert after[0] < 0.5 * before[0]
    assert after[1] < 1.1 * after[0]
