from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from scipy import stats

from eltbench import data, tasks, trainers
from eltbench.backends.torch.engine import TorchEngine
from eltbench.backends.torch.ops import TorchOps
from eltbench.core.config import Architecture, Optimisation, Run
from eltbench.core.streams import stream
from eltbench.tasks.base import ExitOutput
from eltbench.trainers.elt import ELT
from eltbench.trainers.no_ilsd import NoILSD
from eltbench.training.loop import parts

LOOPED = Architecture(unique_layers=2, max_loops=4, width=16, heads=2)
UNIQUE = replace(LOOPED, unique_layers=4, max_loops=1)
BUILT_IN = ("deep-supervision", "deq", "elt", "no-ilsd", "random-loops", "unique-depth", "universal-transformer")
DATASETS = {"diffusion": "digits", "masked": "digits-codes"}


def small_run(trainer: str = "elt", task: str = "diffusion", **changes) -> Run:
    architecture = UNIQUE if trainer == "unique-depth" else LOOPED
    architecture = replace(architecture, **trainers.get(trainer).architecture_defaults)
    architecture = replace(architecture, block="dit" if task == "diffusion" else "bert")
    optimisation = Optimisation(steps=5, batch_size=8, warmup_steps=1, learning_rate=3e-3)
    return Run(trainer, task, DATASETS[task], architecture=architecture, optimisation=optimisation, **changes)


def engine_for(run: Run, trainer=None) -> TorchEngine:
    """An engine whose weights are all away from zero, so that no term vanishes by initialisation."""
    made = parts(run)
    engine = TorchEngine(run, made.network, trainer or made.trainer, made.task)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in engine.network.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return engine


def batch_for(run: Run, step: int = 0):
    made = parts(run)
    clean = made.dataset.batch(stream(run.dataset, run.seed, "batch", step), run.optimisation.batch_size)
    return made.task.corrupt(clean, made.dataset.spec, stream(run.dataset, run.seed, "corruption", step))


def outputs_of(engine: TorchEngine, batch, exits, fields=("prediction",)) -> list[ExitOutput]:
    return engine.network(batch.inputs, batch.labels, batch.context, batch.log_snr, exits, fields)


def gradients(engine: TorchEngine, loss: torch.Tensor) -> list[torch.Tensor]:
    parameters = list(engine.network.parameters())
    return list(torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True))


# Every trainer


@pytest.mark.parametrize("task", ["diffusion", "masked"])
@pytest.mark.parametrize("name", BUILT_IN)
def test_the_loss_is_the_sum_of_finite_terms_and_costs_one_forward_pass(name, task):
    run = small_run(name, task)
    engine, trainer = engine_for(run), trainers.create(name)
    calls = {"network": 0, "first block": 0, "head": 0}

    def counting(part):
        def hook(*_):
            calls[part] += 1

        return hook

    engine.network.register_forward_hook(counting("network"))
    engine.network.blocks[0].register_forward_hook(counting("first block"))
    engine.network.head.register_forward_hook(counting("head"))
    exits = trainer.exits(run.architecture, np.random.default_rng(0))
    values = engine.step(batch_for(run), exits, 0.5, 1e-3)
    steps = trainer.phantom_steps if name == "deq" else 0
    assert calls == {"network": 1, "first block": exits[-1] + steps, "head": len(exits)}
    terms = {term: value for term, value in values.items() if term not in ("loss", "gradient_norm")}
    assert all(value.isfinite() and value.ndim == 0 for value in terms.values())
    assert float(values["loss"]) == pytest.approx(sum(float(value) for value in terms.values()), rel=1e-6)


@pytest.mark.parametrize("name", BUILT_IN)
def test_exits_are_strictly_increasing_loop_counts_and_all_but_random_ones_end_at_max_loops(name):
    architecture = UNIQUE if name == "unique-depth" else LOOPED
    for seed in range(50):
        exits = trainers.create(name).exits(architecture, np.random.default_rng(seed))
        assert all(type(exit) is int for exit in exits)
        assert list(exits) == sorted(set(exits))
        assert exits[0] >= architecture.min_loops
        assert exits[-1] == architecture.max_loops or (name == "random-loops" and exits[-1] < architecture.max_loops)


@pytest.mark.parametrize("name", ["no-ilsd", "unique-depth"])
def test_plain_trainers_are_supervised_by_the_ground_truth_at_the_last_exit_alone(name):
    run = small_run(name)
    engine, task, batch = engine_for(run), tasks.create("diffusion"), batch_for(run)
    batch = engine.upload(batch)
    outputs = outputs_of(engine, batch, (run.architecture.max_loops,))
    terms = trainers.create(name).objective(outputs, batch, 0.3, task, engine.ops)
    assert terms.keys() == {"teacher"}
    assert terms["teacher"] == task.loss(outputs[0], batch, engine.ops)


def test_the_universal_transformer_pays_for_its_mean_ponder_time():
    run = small_run("universal-transformer")
    engine, task = engine_for(run), tasks.create("diffusion")
    batch = engine.upload(batch_for(run))
    with torch.no_grad():
        (output,) = outputs_of(engine, batch, (4,), ("prediction", "ponder"))
    for cost in (0.01, 0.5):
        trainer = trainers.create("universal-transformer", ponder_cost=cost)
        terms = trainer.objective([output], batch, 0.0, task, engine.ops)
        assert float(terms["ponder"]) == pytest.approx(cost * float(output.ponder.mean()))
        assert terms["teacher"] == task.loss(output, batch, engine.ops)


# What a trainer refuses


def test_elt_refuses_an_empty_range_of_intermediate_loops():
    for loops in (1, 3):
        with pytest.raises(ValueError, match=f"min_loops must be below max_loops, given {loops} = {loops}"):
            trainers.create("elt").check(Architecture(min_loops=loops, max_loops=loops))
    trainers.create("elt").check(Architecture(min_loops=3, max_loops=4))
    trainers.create("no-ilsd").check(Architecture(min_loops=1, max_loops=1))


def test_unique_depth_refuses_loops():
    with pytest.raises(ValueError, match="max_loops = 4"):
        trainers.create("unique-depth").check(LOOPED)
    with pytest.raises(ValueError, match="max_loops = 1"):
        parts(replace(small_run("unique-depth"), architecture=LOOPED))


# ELT to the letter (arXiv 2604.09168 eq. 1-3)


@pytest.mark.slow
@pytest.mark.parametrize(("least", "most"), [(1, 2), (1, 4), (2, 6), (1, 12)])
def test_the_intermediate_loop_covers_exactly_its_range_uniformly(least, most):
    architecture, draws = Architecture(min_loops=least, max_loops=most), 6000
    exits = [ELT().exits(architecture, stream("digits", 0, "exits", step)) for step in range(draws)]
    assert {deepest for _, deepest in exits} == {most}
    drawn, counts = np.unique([intermediate for intermediate, _ in exits], return_counts=True)
    assert drawn.tolist() == list(range(least, most))
    if len(drawn) > 1:
        assert stats.chisquare(counts).pvalue > 0.001


@pytest.mark.parametrize("name", ["diffusion", "masked"])
def test_trust_moves_linearly_from_the_labels_to_the_teacher_with_exact_ends(name):
    run, task = small_run(task=name), tasks.create(name)
    engine = engine_for(run)
    batch = engine.upload(batch_for(run))
    with torch.no_grad():
        student, teacher = outputs_of(engine, batch, (2, 4))
    plain = {
        "student": float(task.loss(student, batch, engine.ops)),
        "distillation": float(task.distillation(student, teacher, batch, engine.ops)),
    }
    for progress in (0.0, 0.25, 1.0):
        terms = ELT().objective([student, teacher], batch, progress, task, engine.ops)
        assert terms["teacher"] == task.loss(teacher, batch, engine.ops)
        assert float(terms["student"]) == pytest.approx((1 - progress) * plain["student"])
        assert float(terms["distillation"]) == pytest.approx(progress * plain["distillation"])
    assert min(plain.values()) > 0.01
    assert ELT().objective([student, teacher], batch, 0.0, task, engine.ops)["distillation"] == 0
    assert ELT().objective([student, teacher], batch, 1.0, task, engine.ops)["student"] == 0


@pytest.mark.parametrize("name", ["diffusion", "masked"])
def test_distillation_has_no_gradient_with_respect_to_the_teachers_prediction(name):
    run, task, ops = small_run(task=name), tasks.create(name), TorchOps()
    spec = data.create(run.dataset).spec
    batch = engine_for(run).upload(batch_for(run))
    shape = (8, *spec.grid, 1) if name == "diffusion" else (8, spec.tokens, spec.vocabulary)
    student, teacher = (torch.randn(shape, requires_grad=True) for _ in range(2))
    distillation = ELT().objective([ExitOutput(student), ExitOutput(teacher)], batch, 1.0, task, ops)["distillation"]
    to_student, to_teacher = torch.autograd.grad(
        distillation, [student, teacher], allow_unused=True, materialize_grads=True
    )
    assert (to_teacher == 0).all()
    assert to_student.abs().max() > 0


@pytest.mark.parametrize("name", ["diffusion", "masked"])
def test_distillation_moves_the_weights_through_the_student_alone(name):
    run, task = small_run(task=name), tasks.create(name)
    engine = engine_for(run)
    batch = engine.upload(batch_for(run))
    outputs = outputs_of(engine, batch, (2, 4))
    observed = gradients(engine, ELT().objective(outputs, batch, 1.0, task, engine.ops)["distillation"])

    with torch.no_grad():
        (constant,) = outputs_of(engine, batch, (4,))
    (student,) = outputs_of(engine, batch, (2,))
    expected = gradients(engine, task.distillation(student, constant, batch, engine.ops))
    both_paths = gradients(engine, task.distillation(*outputs_of(engine, batch, (2, 4)), batch, engine.ops))

    largest = max(float(gradient.abs().max()) for gradient in expected)
    differences = [(a - b).abs().max() / largest for a, b in zip(observed, expected, strict=True)]
    assert max(differences) < 1e-5
    assert max((a - b).abs().max() / largest for a, b in zip(both_paths, expected, strict=True)) > 0.01


@dataclass(frozen=True)
class TeacherOnly(ELT):
    """ELT with λ = 1 throughout and without the student's term."""

    def objective(self, outputs, batch, progress, task, ops):
        terms = super().objective(outputs, batch, 0.0, task, ops)
        del terms["student"]
        return terms


@pytest.mark.parametrize("name", ["diffusion", "masked"])
def test_elt_with_full_trust_and_no_student_equals_no_ilsd_step_by_step(name):
    run = small_run(task=name)
    reduced, plain = engine_for(run, TeacherOnly()), engine_for(run, NoILSD())
    start = [parameter.clone() for parameter in plain.network.parameters()]
    for step in range(5):
        batch = batch_for(run, step)
        for engine in (reduced, plain):
            exits = engine.trainer.exits(run.architecture, stream(run.dataset, 0, "exits", step))
            engine.step(batch, exits, step / 4, 3e-3)
        for ours, theirs in zip(reduced.network.parameters(), plain.network.parameters(), strict=True):
            assert torch.allclose(ours, theirs, rtol=0, atol=1e-6)  # single precision, weights of order 0.2
    moved = [(now - then).abs().max() for now, then in zip(plain.network.parameters(), start, strict=True)]
    assert max(moved) > 1e-3
