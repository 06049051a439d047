"""Two pieces of work timed in turn, and what is printed of it."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def interleaved(first: Callable[[], object], second: Callable[[], object], rounds: int) -> np.ndarray:
    """Ratios first/second of neighbouring timings, in random order within each pair."""
    rng, ratios = np.random.default_rng(0), []
    for _ in range(rounds):
        if rng.random() < 0.5:
            above = seconds(first)
            ratios.append(above / seconds(second))
        else:
            below = seconds(second)
            ratios.append(seconds(first) / below)
    return np.array(ratios)


def say(what: str, ratios: np.ndarray, target: float | str) -> None:
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    print(f"\n{what}: {middle:.3f} (middle half {low:.3f} to {high:.3f}, {len(ratios)} rounds; target {target})")
