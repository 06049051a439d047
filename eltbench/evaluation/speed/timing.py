"""Wall-clock of network calls, measured where the model is: interleaved, device-synchronised, as medians.

A time holds for this machine, this backend and this number of threads, beside whatever else was running; times of two
backends say nothing about algorithms.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from eltbench.core.streams import stream
from eltbench.training.model import Model


def call_seconds(model: Model, exits: Sequence[int], *, batch_size: int, rounds: int) -> dict[int, float]:
    """Median seconds of one call on `batch_size` items that reads one exit, by exit.

    Every round times each exit once, in an order of its own, so that a slower spell of the machine falls on all of
    them. Raises ValueError for impossible exits, and for a batch or a number of rounds below 1.
    """
    if batch_size < 1 or rounds < 1:
        raise ValueError(f"timing: batch_size and rounds must be at least 1, given {batch_size} and {rounds}")
    exits = model.exits(exits)
    heldout = model.dataset.heldout()
    clean = heldout.select(np.arange(batch_size) % len(heldout.labels))
    rng = stream(model.run.dataset, 0, "timing")
    (batch,) = model.task.heldout(clean, model.spec, rng, 1)
    uploaded = model.engine.upload(batch)

    def seconds(loops: int) -> float:
        started = time.perf_counter()
        (output,) = model.engine.predict(uploaded, (loops,))
        model.engine.numpy(output.prediction[:1])  # waits for the device, and copies one item
        return time.perf_counter() - started

    for loops in exits:
        seconds(loops)  # compiles, and warms the caches
    timed: dict[int, list[float]] = {loops: [] for loops in exits}
    for loops in [int(loops) for _ in range(rounds) for loops in rng.permutation(exits)]:
        timed[loops].append(seconds(loops))
    return {loops: float(np.median(times)) for loops, times in timed.items()}
