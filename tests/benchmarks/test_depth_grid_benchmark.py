"""Where the time of the quick depth grid goes: the share of matrix products, and how near they come to this machine's.

    pytest tests/benchmarks/test_depth_grid_benchmark.py --benchmark-enable -s

prints, for each N×L of eight layers on one thread, the share of the wall-clock of a training step and of held-out
losses at all exits that is spent in matrix products (attention included), and the rate of the whole, in FLOPs of the
closed form, against the peak measured with large products. Nothing is asserted about time.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from eltbench import accounting
from eltbench.core.config import Run
from eltbench.core.streams import stream
from eltbench.evaluation.heldout import evaluate
from eltbench.studies.presets import load_preset
from eltbench.training.loop import build_engine, parts
from eltbench.training.model import Model

PRODUCTS = {"aten::addmm", "aten::mm", "aten::bmm", "aten::_scaled_dot_product_flash_attention_for_cpu"}
PRODUCTS |= {f"{name}_backward" for name in PRODUCTS}
SIZE = 1024  # of the products that measure the peak

PRESET = load_preset("depth_grid", "quick")
RUNS = [PRESET.run(PRESET.worlds[0], arm, seed=0) for arm in PRESET.sized_arms()]


@pytest.fixture
def rounds(request) -> int:
    return 20 if request.config.getoption("--benchmark-enable") else 1


def peak(rounds: int) -> float:
    """FLOP/s of products of SIZE × SIZE matrices in float32, the best of a few."""
    matrix = torch.ones(SIZE, SIZE)
    return 2 * SIZE**3 / min(seconds(lambda: matrix @ matrix) for _ in range(rounds + 1))


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def share_of_products(work: Callable[[], object], rounds: int) -> tuple[float, float]:
    """The share of the profiled wall-clock that is spent in matrix products, and the seconds of one round without."""
    work()
    each = seconds(lambda: [work() for _ in range(rounds)]) / rounds  # without the profiler's own cost
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        profiled_seconds = seconds(lambda: [work() for _ in range(rounds)])
    events = [event for event in profiled.key_averages() if event.key in PRODUCTS]
    inside = 1e-6 * sum(event.self_cpu_time_total for event in events)
    assert 0 < inside < profiled_seconds
    return inside / profiled_seconds, each


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run.architecture.unique_layers}x{run.architecture.max_loops}")
def test_share_of_matrix_products(run: Run, rounds):
    made = parts(run)
    engine, shape = build_engine(run, made), run.architecture
    deepest, batch_size = shape.max_loops, run.optimisation.batch_size
    clean = made.dataset.batch(stream(run.dataset, 0, "batch"), batch_size)
    batch = made.task.corrupt(clean, made.dataset.spec, stream(run.dataset, 0, "corruption"), 0.1)
    exits = made.trainer.exits(shape, stream(run.dataset, 0, "exits"))
    model, heldout = Model(run, engine, made), len(made.dataset.heldout().labels)
    top = peak(rounds)

    def flops(items: int, read: int) -> float:
        return float(accounting.flops(made.network, loops=deepest, exits=read) * items)

    for what, work, floating in (
        ("training step", lambda: engine.step(batch, exits, 0.5, 1e-3), 3 * flops(batch_size, len(exits))),
        ("held-out losses", lambda: evaluate(model, range(1, deepest + 1), 1), flops(heldout, deepest)),
    ):
        share, each = share_of_products(work, rounds)
        rate = floating / each
        print(
            f"\n{run.trainer} {shape.unique_layers}N×{deepest}L, {what}: {share:.0%} of {1000 * each:.1f} ms in matrix "
            f"products; {rate / 1e9:.1f} of {top / 1e9:.1f} GFLOP/s, {rate / top:.0%} of the peak"
        )
