"""A stopwatch for things that race: bursts of calls, alternated in random order, the device waited for at the end.

Why bursts: a shared block stays in the cache from one call to the next as long as nothing else runs in between. Single
alternated calls would evict it and measure something that no deployment does. Why alternated: a slower spell of the
machine then falls on all contenders. Why the wait: an accelerator's calls return before they are done.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

FEWEST_CALLS = 10  # of a burst
SETTLING_CALLS = 2  # at the start of every burst, untimed: they bring the contender's weights where they will stay

Call = Callable[[], Any]
Wait = Callable[[Any], object]
"""wait(last result): returns when the device has done all that was asked of it."""


class Burst(NamedTuple):
    """One timed burst: whose, in which round and place of the round, how many calls, and how long they took."""

    contender: str
    round: int
    place: int
    calls: int
    seconds: float

    @property
    def seconds_per_call(self) -> float:
        return self.seconds / self.calls


def race(
    contenders: Mapping[str, Call],
    wait: Wait,
    rng: np.random.Generator,
    *,
    rounds: int,
    calls: int = FEWEST_CALLS,
    burst_seconds: float = 0.0,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Burst]:
    """Every contender's bursts, one a round, in an order drawn anew for every round.

    A burst has `calls` calls, or as many as fill `burst_seconds` by the first timed call. Each contender is called
    twice before anything counts: the first call may compile. Raises ValueError for fewer than 1 round or 10 calls.
    """
    if rounds < 1 or calls < FEWEST_CALLS:
        given = f"given {rounds} rounds of {calls} calls"
        raise ValueError(f"a race has at least 1 round and {FEWEST_CALLS} calls a burst, {given}")

    def timed(call: Call, times: int) -> float:
        started = clock()
        for _ in range(times):
            last = call()
        wait(last)
        return clock() - started

    sizes = {}
    for name, call in contenders.items():
        wait(call())
        once = timed(call, 1)
        sizes[name] = max(calls, math.ceil(burst_seconds / once)) if once > 0 else calls
    bursts = []
    for number in range(rounds):
        for place, name in enumerate(map(str, rng.permutation(list(contenders)))):
            timed(contenders[name], SETTLING_CALLS)
            bursts.append(Burst(name, number, place, sizes[name], timed(contenders[name], sizes[name])))
    return bursts


def seconds_per_call(bursts: Sequence[Burst]) -> dict[str, float]:
    """The median over bursts of each contender."""
    return {name: float(np.median(times)) for name, times in _times(bursts).items()}


def spreads(bursts: Sequence[Burst]) -> dict[str, float]:
    """How far the bursts of each contender scatter: the distance between their quartiles over their median."""
    return {
        name: float(np.subtract(*np.percentile(times, [75, 25])) / np.median(times))
        for name, times in _times(bursts).items()
    }


def spread(bursts: Sequence[Burst]) -> float:
    """How restless the machine was: the spread of the worst contender."""
    return max(spreads(bursts).values(), default=0.0)


def _times(bursts: Sequence[Burst]) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {}
    for burst in bursts:
        times.setdefault(burst.contender, []).append(burst.seconds_per_call)
    return times
