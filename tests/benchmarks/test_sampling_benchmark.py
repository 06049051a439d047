"""What samples at several loop counts could share: the first pass, where inputs are the same, or batches.

    pytest tests/benchmarks/test_sampling_benchmark.py --benchmark-enable -s

prints, for both tasks of the extrapolation preset `digits` and its loop counts, the processor time of the network calls
of one sampling step: one call a loop count, one call that reads all exits (possible at the first step alone, where all
start from the same noise), and a stacked batch, item for item. Nothing is asserted about time.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from eltbench.core.config import Run
from eltbench.core.streams import stream
from eltbench.studies.presets import load_preset
from eltbench.tasks.base import Batch
from eltbench.training.loop import build_engine, parts

PRESET = load_preset("extrapolation", "digits")
RUNS = [PRESET.run(world, PRESET.arms[0], seed=0) for world in PRESET.worlds]
LOOPS = tuple(PRESET.measurement["sample_loops"])
LONE = 4  # the loop count at which a stacked batch is compared


@pytest.fixture
def size(request) -> tuple[int, int]:
    """Rounds, and samples."""
    return (5, PRESET.measurement["samples"]) if request.config.getoption("--benchmark-enable") else (1, 8)


def processor_seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.task)
def test_what_samples_at_several_loop_counts_could_share(run: Run, size):
    rounds, samples = size
    made = parts(run)
    engine = build_engine(run, made)
    clean = made.dataset.batch(stream(run.dataset, 0, "batch"), samples)
    batch = made.task.corrupt(clean, made.dataset.spec, stream(run.dataset, 0, "corruption"), 0.0)
    stacked = Batch(*(None if array is None else np.concatenate([array] * len(LOOPS)) for array in batch))
    one, many = engine.upload(batch), engine.upload(stacked)
    works: dict[str, Callable[[], list]] = {
        "each": lambda: [engine.predict(one, (loops,))[0] for loops in LOOPS],
        "pass": lambda: engine.predict(one, LOOPS),
        "lone": lambda: engine.predict(one, (LONE,)),
        "stacked": lambda: engine.predict(many, (LONE,)),
    }
    for alone, read in zip(works["each"](), works["pass"](), strict=True):
        np.testing.assert_allclose(engine.numpy(read.prediction), engine.numpy(alone.prediction), atol=1e-5)
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            times[name].append(processor_seconds(work))
    each, one_pass, lone, together = (float(np.quantile(taken, 0.25)) for taken in times.values())
    steps = made.task.sampling(**{**PRESET.measurement["sampling"], **_own(run)}).steps
    saved = (1 - one_pass / each) / steps
    print(
        f"\n{run.task}, {samples} samples at {len(LOOPS)} loop counts: {each:.3f} s a step; one pass of all exits "
        f"takes {one_pass / each:.2f} of that and would save {saved:.1%} of {steps} steps; a stacked batch takes "
        f"{together / len(LOOPS) / lone:.2f} times as long an item"
    )


def _own(run: Run) -> dict[str, int]:
    """The sampling options of the run's world."""
    (world,) = (world for world in PRESET.worlds if world.task == run.task)
    return world.measurement.get("sampling", {})
