"""How long missing runs will take, by what was seen here and else by this machine's speed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from eltbench import accounting, data, estimate
from eltbench.config import Architecture, Optimisation, Run
from eltbench.estimate import estimated_seconds, training_flops
from eltbench.runs import Job, RunStore
from eltbench.sweep import Durations

RUN = Run(
    "elt",
    "diffusion",
    "digits",
    architecture=Architecture(2, 4, width=16, heads=2),
    optimisation=Optimisation(steps=100, batch_size=8),
)


@pytest.fixture
def known(tmp_path):
    """What is known where runs of these durations were finished."""

    def make(*finished):
        store, jobs = RunStore(tmp_path / "runs"), []
        for run, seconds in finished:
            jobs.append(Job(run))
            folder = store.directory(jobs[-1].run_id)
            folder.mkdir(parents=True)
            (folder / "checkpoint.safetensors").write_bytes(b"weights")
            store.finish(run, jobs[-1].run_id, seconds=seconds, resumed=False)
        return Durations(store, jobs)

    return make


def seeds(*numbers):
    return [replace(RUN, seed=seed) for seed in numbers]


def test_runs_of_a_known_kind_take_as_long_as_before_shared_by_the_workers(known):
    durations = known((RUN, 10.0), (replace(RUN, seed=1), 14.0))
    assert estimated_seconds(seeds(2, 3, 4, 5), 1, durations) == 48.0
    assert estimated_seconds(seeds(2, 3, 4, 5), 2, durations) == 24.0


def test_more_workers_than_runs_do_not_shorten_the_longest(known):
    assert estimated_seconds(seeds(7), 4, known((RUN, 10.0))) == 10.0


def test_unknown_kinds_take_what_their_flops_take_at_this_machines_speed(known, monkeypatch):
    monkeypatch.setattr(estimate, "matrix_rate", lambda: 1e9)
    seconds = estimated_seconds(seeds(0, 1), 1, known())
    assert seconds == pytest.approx(2 * (estimate.START + training_flops(RUN) / (estimate.SHARE_OF_PEAK * 1e9)))
    longer = replace(RUN, optimisation=replace(RUN.optimisation, steps=100_000))
    both = estimated_seconds([RUN, longer], 2, known())
    assert both == pytest.approx(estimated_seconds([longer], 2, known()))  # the longest decides


def test_training_costs_a_forward_pass_at_the_deepest_loop_and_twice_that_backward():
    forward = accounting.flops(RUN.architecture, "looped", data.create("digits").spec, True, loops=4)
    assert training_flops(RUN) == 3 * forward * 8 * 100


def test_training_a_fixed_point_runs_its_loops_forward_and_its_phantom_steps_both_ways():
    injected = replace(RUN.architecture, input_injection=True)
    costs = [
        training_flops(replace(RUN, trainer="deq", architecture=replace(injected, max_loops=loops), trainer_options=of))
        for loops, of in ((4, ()), (5, ()), (4, (("phantom_steps", 6),)))
    ]
    loop = costs[1] - costs[0]  # forward alone
    assert costs[2] - costs[0] == 3 * loop
    shape = (injected, "equilibrium", data.create("digits").spec, True)
    assert loop == 800 * (accounting.flops(*shape, loops=5) - accounting.flops(*shape, loops=4))


def test_the_speed_of_this_machine_is_a_plausible_number():
    assert 1e8 < estimate.matrix_rate(128) < 1e14
