"""What a second worker buys: the quick preset's sweep by one worker and by two.

    pytest tests/benchmarks/test_sweep_benchmark.py --benchmark-enable -s

prints the ratio of the wall times (target 0.6). Without --benchmark-enable two workers make runs of a few steps.
Nothing is asserted about time.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from eltbench import studies
from eltbench.execution.store import RunStore
from eltbench.execution.sweep import sweep
from eltbench.studies.presets import load_preset


@pytest.mark.slow
def test_two_workers_against_one(request, tmp_path: Path):
    measuring = request.config.getoption("--benchmark-enable")
    preset = load_preset("extrapolation", "quick")
    # a tenth of the steps and one sampled loop count: start-up weighs more than in the whole preset
    optimisation = {**preset.optimisation, "steps": 100 if measuring else 2}
    measurement = {**preset.measurement, "sample_loops": [4], "samples": 20, "diagnose_loops": []}
    measurement |= {} if measuring else {"heldout_draws": 1, "samples": 0}
    preset = replace(preset, optimisation=optimisation, measurement=measurement, seeds=(0, 1, 2) if measuring else (0,))
    jobs = studies.create("extrapolation").plan(preset)
    seconds = {}
    for workers in (1, 2) if measuring else (2,):
        started = time.perf_counter()
        outcome = sweep(jobs, RunStore(tmp_path / str(workers)), workers)
        seconds[workers] = time.perf_counter() - started
        assert len(outcome.done) == len(jobs)
    if measuring:
        ratio = seconds[2] / seconds[1]
        print(
            f"\n{len(jobs)} runs: one worker {seconds[1]:.1f} s, two {seconds[2]:.1f} s, ratio {ratio:.2f} (target 0.6)"
        )
