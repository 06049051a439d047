"""What stopping early saves in time, and what looking at the signals costs.

    pytest tests/benchmarks/test_anytime_benchmark.py --benchmark-enable -s

prints what a call takes where items leave after 25, 50, 75 and 100 % of L_max loops on average, and the share of the
signals: on the clock, and of this process alone, in which neighbours on the machine are not counted; then that share at
greater widths, where a loop costs more and a signal hardly. Without --benchmark-enable everything runs once at a small
size, to see that it works. Nothing is asserted about time: a busy machine must not fail a test. In place of a rule
every item ends at a loop that is set beforehand, evenly about the mean and as far apart as L_max allows, so that the
batch thins out as it does with real signals.
"""

from __future__ import annotations

import time

import numpy as np
import pytest

from eltbench.core.config import Architecture, Run
from eltbench.evaluation.stopping.anytime import Plan, anytime
from eltbench.training.loop import build_engine, parts
from eltbench.training.model import Model

LOOPS = 8  # L_max
WIDTHS = (128, 256, 512)
MEANS = (0.25, 0.5, 0.75, 1.0)


def stops(mean: float, items: int, loops: int) -> np.ndarray:
    """The loops (B,) after which items stop: evenly spread about the mean, as widely as 1 … L_max allows."""
    centre = mean * loops
    half = min(centre - 1, loops - centre)
    spread = np.round(np.linspace(centre - half, centre + half, items)).astype(int)
    return np.random.default_rng(0).permutation(spread)


def model_of(backend: str, width: int, loops: int) -> Model:
    architecture = Architecture(unique_layers=2, max_loops=loops, width=width, block="bert")
    run = Run("elt", "masked", "digits-codes", architecture=architecture, backend=backend)
    made = parts(run)
    return Model(run, build_engine(run, made), made)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_the_time_falls_with_the_mean_exit(backend, request, monkeypatch):
    enabled = request.config.getoption("--benchmark-enable")
    items, width, loops, repeats = (64, 128, LOOPS, 9) if enabled else (4, 16, 4, 1)
    if backend == "jax":
        pytest.importorskip("jax")
    model = model_of(backend, width, loops)
    clean = model.dataset.batch(np.random.default_rng(0), items)
    (batch,) = model.task.heldout(clean, model.spec, np.random.default_rng(0), 1)
    given = batch.inputs, batch.labels
    plans: dict[float, np.ndarray] = {mean: stops(mean, items, loops) for mean in MEANS}

    def run(mean: float, signals: tuple[str, ...] | None = ()) -> tuple[float, float]:
        left = plans[mean]

        def stop(plan: Plan, seen: dict, read: int, count: int) -> np.ndarray:
            nonlocal left
            now = left <= plan.exits[read - 1]
            left = left[~now]
            return now

        monkeypatch.setattr(Plan, "stop", stop)
        started = time.perf_counter(), time.process_time()
        *_, last = anytime(model, *given, rule="fixed", threshold=-float(loops), signals=signals)
        assert np.array_equal(last.exits, plans[mean])
        return 1000 * (time.perf_counter() - started[0]), 1000 * (time.process_time() - started[1])

    for mean in MEANS:  # compiled and warm before anything is timed
        run(mean)
        run(mean, None)
    plain: dict[float, list[tuple[float, float]]] = {mean: [] for mean in MEANS}
    watched: dict[float, list[tuple[float, float]]] = {mean: [] for mean in MEANS}
    for _ in range(repeats):
        for mean in np.random.default_rng(0).permutation(MEANS):
            plain[mean].append(run(mean))
            watched[mean].append(run(mean, None))
    print(f"\n{backend}, {items} items, width {width}, N = 2, L_max = {loops}; ms on the clock (of this process)")
    for mean in MEANS:
        (clock, own), (clock_watched, own_watched) = (np.median(times[mean], axis=0) for times in (plain, watched))
        print(
            f"  mean exit {plans[mean].mean() / loops:4.0%} of L_max: {clock:7.1f} ({own:7.1f}), "
            f"{own / np.median(plain[1.0], axis=0)[1]:4.0%} of the full pass; with all signals {clock_watched:7.1f} "
            f"({own_watched:7.1f}), {own_watched / own - 1:+.0%} (target under 15 %)"
        )


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_what_all_signals_cost_by_width(backend, request):
    enabled = request.config.getoption("--benchmark-enable")
    items, widths, loops, repeats = (64, WIDTHS, 4, 7) if enabled else (4, (16,), 2, 1)
    if backend == "jax":
        pytest.importorskip("jax")
    for width in widths:
        model = model_of(backend, width, loops)
        clean = model.dataset.batch(np.random.default_rng(0), items)
        (batch,) = model.task.heldout(clean, model.spec, np.random.default_rng(0), 1)
        times: dict[tuple[str, ...] | None, list[float]] = {(): [], None: []}
        for repeat in range(repeats + 1):  # the first is compiled and warms up
            for signals, taken in times.items():
                started = time.process_time()
                *_, last = anytime(model, batch.inputs, batch.labels, signals=signals)
                taken += [1000 * (time.process_time() - started)] if repeat else []
                assert bool(last.signals) == (signals is None)
        plain, watched = (float(np.median(taken)) for taken in times.values())
        print(
            f"\n{backend}, {items} items, width {width}, N = 2, L_max = {loops}; ms of this process: {plain:.1f}; "
            f"with all signals {watched:.1f}, {watched / plain - 1:+.0%}"
        )
