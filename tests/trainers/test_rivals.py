"""Deep supervision and random loops: which exits they read, and what these weigh."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from eltbench import tasks, trainers
from eltbench.backends.torch.ops import TorchOps
from eltbench.core.config import Architecture, Optimisation, Run
from eltbench.core.streams import stream
from eltbench.tasks.base import Batch, ExitOutput
from eltbench.training.loop import build_engine, parts

BY_HAND = {  # of the exits in order, from the first
    ("uniform", 1): (1,),
    ("uniform", 4): (1 / 4, 1 / 4, 1 / 4, 1 / 4),
    ("final", 1): (1,),
    ("final", 2): (1 / 3, 2 / 3),
    ("final", 4): (1 / 10, 2 / 10, 3 / 10, 4 / 10),
}


class Sum:
    """A task whose loss is the sum of the prediction."""

    def loss(self, output, batch, ops):
        return output.prediction.sum()


def losses(trainer, predictions):
    outputs = [ExitOutput(torch.tensor([float(value)])) for value in predictions]
    terms = trainer.objective(outputs, Batch(*[None] * 6), 0.3, Sum(), TorchOps())
    return [float(term) for term in terms.values()]


def run_of(trainer, task="diffusion", **architecture):
    shape = {"unique_layers": 1, "max_loops": 4, "width": 16, "heads": 2} | architecture
    shape |= {"block": "dit" if task == "diffusion" else "bert"}
    dataset = {"diffusion": "digits", "masked": "digits-codes"}[task]
    optimisation = Optimisation(steps=8, batch_size=8, warmup_steps=1)
    return Run(trainer, task, dataset, architecture=Architecture(**shape), optimisation=optimisation)


def batch_of(run, step=0):
    made = parts(run)
    clean = made.dataset.batch(stream(run.dataset, 0, "batch", step), run.optimisation.batch_size)
    return made.task.corrupt(clean, made.dataset.spec, stream(run.dataset, 0, "corruption", step))


# Deep supervision


@pytest.mark.parametrize(("least", "most"), [(1, 4), (2, 4), (3, 3)])
def test_deep_supervision_reads_every_exit_from_min_loops_to_max_loops(least, most):
    architecture = Architecture(min_loops=least, max_loops=most)
    exits = trainers.create("deep-supervision").exits(architecture, np.random.default_rng(0))
    assert exits == tuple(range(least, most + 1))


@pytest.mark.parametrize(("weighting", "exits"), BY_HAND)
def test_exits_weigh_what_the_formula_says(weighting, exits):
    trainer = trainers.create("deep-supervision", weighting=weighting)
    assert losses(trainer, [1] * exits) == pytest.approx(BY_HAND[weighting, exits])
    assert losses(trainer, range(exits)) == pytest.approx([w * i for i, w in enumerate(BY_HAND[weighting, exits])])


@pytest.mark.parametrize("weighting", ["uniform", "final"])
@pytest.mark.parametrize("exits", [1, 2, 7, 12])
def test_exits_that_are_all_alike_give_the_plain_loss(weighting, exits):
    """So learning rate and clipping mean the same as for a single exit."""
    assert sum(losses(trainers.create("deep-supervision", weighting=weighting), [3] * exits)) == pytest.approx(3)


@pytest.mark.parametrize("task", ["diffusion", "masked"])
def test_the_loss_of_deep_supervision_is_the_mean_of_separate_runs_losses(task):
    run, judge = run_of("deep-supervision", task, min_loops=2), tasks.create(task)
    engine = build_engine(run)
    batch = engine.upload(batch_of(run))
    call = (batch.inputs, batch.labels, batch.context, batch.log_snr)
    with torch.no_grad():
        alone = [float(judge.loss(engine.network(*call, (loops,))[0], batch, engine.ops)) for loops in (2, 3, 4)]
    values = engine.step(batch_of(run), (2, 3, 4), 0.5, 1e-3)
    assert float(values["loss"]) == pytest.approx(np.mean(alone), rel=1e-5)
    assert [float(values[f"exit {i} of 3"]) for i in (1, 2, 3)] == pytest.approx([each / 3 for each in alone], rel=1e-5)


def test_an_unknown_weighting_is_refused():
    with pytest.raises(ValueError, match="weighting is given as 'last'"):
        trainers.create("deep-supervision", weighting="last")


# Random loops


@pytest.mark.parametrize(("least", "most"), [(1, 2), (2, 6), (1, 12)])
def test_random_loops_cover_exactly_their_range_uniformly(least, most):
    architecture, trainer, draws = Architecture(min_loops=least, max_loops=most), trainers.create("random-loops"), 6000
    exits = [trainer.exits(architecture, stream("digits", 0, "exits", step)) for step in range(draws)]
    assert {len(each) for each in exits} == {1}
    assert {type(exit) for (exit,) in exits} == {int}
    drawn, counts = np.unique(exits, return_counts=True)
    assert drawn.tolist() == list(range(least, most + 1))
    assert stats.chisquare(counts).pvalue > 0.001


def test_a_range_of_one_loop_count_is_no_ilsd_step_by_step():
    plain, fixed = (build_engine(run_of(trainer, min_loops=4)) for trainer in ("no-ilsd", "random-loops"))
    for step in range(3):
        batch = batch_of(run_of("no-ilsd"), step)
        values = []
        for engine in (plain, fixed):
            exits = engine.trainer.exits(engine.run.architecture, stream("digits", 0, "exits", step))
            assert exits == (4,)
            values.append(engine.step(batch, exits, step / 2, 1e-3))
        assert values[0]["loss"] == values[1]["loss"]
    assert all(torch.equal(*pair) for pair in zip(plain.network.parameters(), fixed.network.parameters(), strict=True))


def test_torch_runs_no_loop_beyond_the_one_drawn():
    run = run_of("random-loops")
    engine, calls = build_engine(run), []
    engine.network.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    for exit in (1, 3, 4):
        calls.clear()
        engine.step(batch_of(run), (exit,), 0.5, 1e-3)
        assert len(calls) == exit


@pytest.mark.parametrize("task", ["diffusion", "masked"])
def test_the_loss_of_random_loops_is_that_of_the_exit_drawn(task):
    run = run_of("random-loops", task)
    engine = build_engine(run)
    batch = engine.upload(batch_of(run))
    with torch.no_grad():
        (output,) = engine.network(batch.inputs, batch.labels, batch.context, batch.log_snr, (2,))
    expected = float(tasks.create(task).loss(output, batch, engine.ops))
    values = engine.step(batch_of(run), (2,), 0.5, 1e-3)
    assert float(values["last"]) == float(values["loss"]) == pytest.approx(expected, rel=1e-6)
