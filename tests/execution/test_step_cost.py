"""What training costs here: timed steps of the very models, which a moment's disturbance does not move."""

from __future__ import annotations

import itertools
import os
from dataclasses import replace

import numpy as np
import pytest
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from eltbench import accounting, data
from eltbench.accounting import NetworkSpec
from eltbench.core.config import Architecture, Optimisation, Run
from eltbench.execution import step_cost
from eltbench.execution.step_cost import step_flops
from eltbench.training.loop import build_engine, draw, parts

RUN = Run(
    "no-ilsd",
    "diffusion",
    "digits",
    architecture=Architecture(1, 2, width=8, heads=2),
    optimisation=Optimisation(steps=20, batch_size=4),
)


@pytest.mark.slow
def test_every_kind_is_timed_once_whatever_its_seeds_and_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    deq = replace(RUN, trainer="deq", architecture=replace(RUN.architecture, input_injection=True))
    costs = step_cost.calibrate([RUN, replace(RUN, seed=3), deq, replace(RUN, seed=5)], workers=2)
    assert list(costs) == [RUN, deq]
    assert all(cost.start > 0 and cost.step > 0 for cost in costs.values())
    assert os.listdir() == []


@pytest.mark.slow
def test_a_run_that_cannot_be_is_refused_with_what_its_process_said():
    with pytest.raises(ValueError, match=r"a training could not be timed: ValueError: .*dataset 'relay' gives tokens"):
        step_cost.calibrate([replace(RUN, dataset="relay")], workers=1)


def test_a_momentary_load_on_a_few_bursts_does_not_move_what_is_typical():
    rng = np.random.default_rng(0)
    calm = rng.uniform(1.0, 1.01, step_cost.BURSTS)
    for disturbed in range(step_cost.BURSTS // 2 + 1):
        bursts = np.where(np.arange(step_cost.BURSTS) < disturbed, 30 * calm, calm)
        assert 1.0 <= step_cost.typical(bursts) <= 1.01


def test_steps_are_spread_over_the_training_and_no_more_than_there_are():
    assert step_cost.spread(1500, 3) == [0, 750, 1499] or step_cost.spread(1500, 3) == [0, 749, 1499]
    assert step_cost.spread(2, 3) == [0, 1]
    assert step_cost.spread(1, 3) == [0]


def test_a_step_costs_what_accounting_says_of_the_exits_that_it_reads():
    network = NetworkSpec(RUN.architecture, "looped", data.create("digits").spec, True)
    at = [4 * sum(accounting.step_flops(network, loops).values()) for loops in (1, 2)]
    assert step_flops(RUN, parts(RUN)) == at[1]
    random = replace(RUN, trainer="random-loops")
    each = [step_flops(random, parts(random), [step]) for step in range(20)]
    assert set(each) == set(at)
    assert step_flops(random, parts(random)) == pytest.approx(np.mean(each))


OPTIONS = [  # every choice of terms that elt takes
    {"teacher": teacher, "student": student, "distillation": distillation}
    for teacher, student, distillation in itertools.product([True, False], repeat=3)
    if teacher or student
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trainer", "options"),
    [
        *(("elt", options) for options in OPTIONS),
        ("elt", {"decay": "constant-1"}),
        ("elt", {"decay": "constant-0"}),
        ("deep-supervision", {}),
        ("random-loops", {}),
        ("universal-transformer", {}),
        ("deq", {"phantom_steps": 3, "memory": 0}),
    ],
)
def test_a_step_costs_what_torch_counts_while_the_engine_takes_it(trainer, options):
    architecture = Architecture(1, 4, width=8, heads=2, input_injection=True)
    run = replace(RUN, trainer=trainer, trainer_options=tuple(options.items()), architecture=architecture)
    made = parts(run)
    engine = build_engine(run, made)
    for step in range(4):
        batch, exits = draw(run, made, step)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            engine.step(batch, exits, progress=0.5, learning_rate=0.0)
        assert step_flops(run, made, [step]) == counter.get_total_flops()


def test_training_a_fixed_point_runs_its_loops_forward_and_its_phantom_steps_both_ways():
    injected = replace(RUN.architecture, input_injection=True)
    costs = []
    for loops, options in ((4, ()), (5, ()), (4, (("phantom_steps", 6),))):
        run = replace(RUN, trainer="deq", architecture=replace(injected, max_loops=loops), trainer_options=options)
        costs.append(step_flops(run, parts(run)))
    loop = costs[1] - costs[0]  # forward alone
    assert costs[2] - costs[0] == 3 * loop
    network = NetworkSpec(injected, "equilibrium", data.create("digits").spec, True)
    assert loop == 4 * (accounting.flops(network, loops=5) - accounting.flops(network, loops=4))
