"""How long missing runs will take: by what was seen here, else by timed steps, and by the calls of measurements."""

from __future__ import annotations

from dataclasses import replace

import pytest

from eltbench import accounting, data
from eltbench.accounting import NetworkSpec
from eltbench.core.config import Architecture, Optimisation, Run
from eltbench.execution import step_cost
from eltbench.execution.estimate import START, Estimate, estimate, measuring_flops
from eltbench.execution.step_cost import Cost
from eltbench.execution.store import RunStore
from eltbench.execution.sweep import Durations, grouped, plan
from eltbench.training.job import Job
from eltbench.training.loop import parts

RUN = Run(
    "no-ilsd",
    "diffusion",
    "digits",
    architecture=Architecture(2, 4, width=16, heads=2),
    optimisation=Optimisation(steps=100, batch_size=8),
)
LONGER = replace(RUN, optimisation=replace(RUN.optimisation, steps=1000))
SETTINGS = {
    "exits": [2, 4],
    "heldout_draws": 3,
    "samples": 10,
    "sample_loops": [1, 4],
    "sampling": {"steps": 5, "guidance_scale": 1.0},
}


@pytest.fixture
def expected(tmp_path, monkeypatch):
    """The estimate for jobs where runs of these durations were finished, and each other step takes two seconds."""

    def make(jobs, *finished, workers=1, together=False):
        store = RunStore(tmp_path / "runs")
        for run, seconds in finished:
            folder = store.directory(Job(run).run_id)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "checkpoint.safetensors").write_bytes(b"weights")
            store.finish(run, Job(run).run_id, seconds=seconds, resumed=False)
        groups = grouped(plan(jobs, store).missing, store, together)
        return estimate(groups, Durations(store, [*jobs, *(Job(run) for run, _ in finished)]), workers)

    monkeypatch.setattr(step_cost, "calibrate", priced)
    return make


def priced(runs, workers):
    assert len(set(runs)) == len(runs)
    return {run: Cost(start=10.0, step=2.0) for run in runs}


def seeds(*numbers, run=RUN, **measured):
    return [Job(replace(run, seed=seed), **measured) for seed in numbers]


def ids(jobs):
    return [job.run_id for job in jobs]


def test_runs_of_a_known_kind_take_as_long_as_before_shared_by_the_workers(expected):
    jobs, before = seeds(2, 3, 4, 5), [(RUN, 10.0), (replace(RUN, seed=1), 14.0)]
    assert expected(jobs, *before).seconds(ids(jobs)) == 4 * (START + 12.0)
    told = expected(jobs, *before, workers=2)
    assert told.seconds(ids(jobs)) == 2 * (START + 12.0)
    assert told.basis.startswith("1 kinds of run take as long as here before")


def test_more_workers_than_runs_do_not_shorten_the_longest(expected):
    assert expected(seeds(7), (RUN, 10.0), workers=4).seconds(ids(seeds(7))) == START + 10.0


def test_unknown_kinds_take_what_their_steps_take_when_timed(expected):
    jobs = seeds(0, 1)
    told = expected(jobs)
    assert told.seconds(ids(jobs)) == 2 * (10.0 + 100 * 2.0)
    assert step_cost.HOW in told.basis
    both = [*seeds(0), *seeds(0, run=LONGER)]
    assert expected(both, workers=2).seconds(ids(both)) == 10.0 + 1000 * 2.0  # the longest decides


def test_kinds_are_timed_by_as_many_processes_as_will_train(expected, monkeypatch):
    asked = []
    monkeypatch.setattr(step_cost, "calibrate", lambda runs, workers: asked.append(workers) or priced(runs, workers))
    expected(seeds(0, 1, 2), workers=2)
    expected(seeds(0, 1, 2), workers=16)
    assert asked == [2, 3]


def test_what_is_cached_takes_no_time_and_times_nothing(expected, monkeypatch):
    monkeypatch.setattr(step_cost, "calibrate", None)
    told = expected(seeds(0), (RUN, 10.0))
    assert told.seconds(ids(seeds(0))) == 0
    assert told.basis == ""


def test_a_measurement_adds_its_network_calls_at_the_rate_of_training(expected):
    jobs = seeds(0, study="extrapolation", settings=SETTINGS)
    step = step_cost.step_flops(RUN, parts(RUN))
    calls = measuring_flops(RUN, parts(RUN), SETTINGS)
    assert expected(jobs).seconds(ids(jobs)) == pytest.approx(10.0 + 200.0 + calls / step * 2.0)
    trained = expected(jobs, (RUN, 50.0))  # trained already: the measurement alone is left
    assert trained.seconds(ids(jobs)) == pytest.approx(START + calls / (100 * step) * 50.0)


def test_the_calls_of_a_measurement_are_its_losses_and_its_samples():
    network = NetworkSpec(RUN.architecture, "looped", data.create("digits").spec, True)
    items = len(data.create("digits").heldout().labels)
    losses = 3 * items * accounting.flops(network, loops=4)  # one pass for all exits
    samples = 10 * 5 * (accounting.flops(network, loops=1) + accounting.flops(network, loops=4))
    made = parts(RUN)
    assert measuring_flops(RUN, made, SETTINGS) == losses + samples
    assert measuring_flops(RUN, made, {**SETTINGS, "training_steps": [50, 100]}) == 2 * losses + samples
    guided = {**SETTINGS, "sampling": {"steps": 5, "guidance_scale": 2.0}}
    assert measuring_flops(RUN, made, guided) == losses + 2 * samples
    assert measuring_flops(RUN, made, {**SETTINGS, "samples": 0}) == losses
    at_max = {name: value for name, value in SETTINGS.items() if name != "sample_loops"}
    assert measuring_flops(RUN, made, at_max) == losses + 50 * accounting.flops(network, loops=4)
    assert measuring_flops(RUN, made, {}) == 0


def test_seeds_that_are_trained_together_have_one_process():
    told = Estimate([{"a": 1.0, "b": 2.0}, {"c": 4.0}], workers=2, basis="")
    assert told.seconds(["a", "b", "c"]) == 4.0
    assert told.seconds(["a", "b"]) == 3.0
    assert told.seconds(["a", "unknown"]) == 1.0
    assert told.seconds([]) == 0
