"""Measuring the ceilings of a roofline: rates, bandwidths and launches, and what the system says of itself."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from eltbench.accounting import BYTES
from eltbench.core.machine import memory
from eltbench.core.provenance import processor
from eltbench.evaluation.speed.roofline import Ceilings, Ladder, Shape
from eltbench.evaluation.speed.stopwatch import Call

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
SQUARE = {"cpu": 1024, "cuda": 8192}  # side of the product whose rate is the peak
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}
LAUNCHES = 200
SETS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1, 3 / 2, 3)  # weights taken in turn, in sizes of the last cache
SMALLEST_SET = 2**14  # bytes that are read in turn: within the first level of cache
LONG_READ = 2**22  # bytes that a call reads at least, so that what is timed is not the call
TRIES = 3
PLAUSIBLE = 0.9  # of the rate with a larger set, below which a stall of the machine was timed
MOST = 4096  # weights in such a set: of smaller ones than that there is one, which their runs do not wait for


class Probes(Protocol):
    """What a backend runs to be measured; each gives a call that can be repeated (see backends.torch.probes)."""

    def product(self, vectors: int, inputs: int, outputs: int, precision: str, weights: int = 1) -> Call: ...
    def attention(self, items: int, tokens: int, width: int, heads: int, precision: str) -> Call: ...
    def read(self, size: int, times: int = 1) -> Call: ...
    def copy(self, size: int) -> Call: ...
    def launch(self) -> Call: ...
    def repeated(self, call: Call, times: int) -> Call: ...
    def matmul(self) -> str: ...
    def wait(self, last: Any) -> None: ...
    def accelerator(self) -> dict[str, Any] | None: ...


def measure(
    probes: Probes,
    device: str,
    threads: int,
    shapes: Mapping[str, Iterable[Shape]],
    seconds: float = 0.03,
    largest: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
    lacks_memory: Callable[[Exception], bool] = lambda error: False,
) -> Ceilings:
    """The ceilings of this machine, with rates at these shapes by precision; about 3·`seconds` for each number.

    largest: of the sets that are read in turn, in bytes; eight times the last level of cache by default. Each number is
    the best of three, since nothing makes a machine faster than it is, and a product that seems slower with a smaller
    set of weights than with a larger one is timed again. Launches are left out where possible (`Probes.repeated`).
    A shape whose weight does not fit into memory has no rate; `lacks_memory` says of an error whether that is why.
    """

    def best(call: Call) -> float:
        probes.wait(call())
        once = quickest(call, 1)
        times = max(1, math.ceil(seconds / once)) if once > 0 else 1
        return quickest(probes.repeated(call, times), times)

    def quickest(burst: Call, calls: int) -> float:
        found = []
        for _ in range(TRIES):
            started = clock()
            probes.wait(burst())
            found.append((clock() - started) / calls)
        return min(found)

    def launches() -> float:
        launch = probes.launch()
        probes.wait(launch())
        return quickest(lambda: [launch() for _ in range(LAUNCHES)][-1], LAUNCHES)

    def rates(shape: Shape, precision: str) -> Ladder:
        if shape.heads:
            call = probes.attention(shape.items, shape.vectors, shape.inputs, shape.heads, precision)
            return [(0, shape.flops / best(call))]
        weight = BYTES[precision] * (shape.inputs + 1) * shape.outputs
        counts = sorted({1, *(round(size / weight) for size in sets if size >= 2 * weight)})
        counts = counts if counts[-1] <= MOST else [1]
        found = [product(shape, precision, count) for count in counts]
        for place in reversed(range(len(counts) - 1)):
            for _ in range(TRIES):
                if found[place] < PLAUSIBLE * found[place + 1]:
                    found[place] = max(found[place], product(shape, precision, counts[place]))
        return [(count * weight, rate) for count, rate in zip(counts, found, strict=True)]

    def all_rates(precision: str, its: Iterable[Shape]) -> dict[Shape, Ladder]:
        found = {}
        for shape in set(its):
            if BYTES[precision] * shape.inputs * shape.outputs <= system["memory"]:  # else the system ends this process
                try:
                    found[shape] = rates(shape, precision)
                except Exception as error:
                    if not lacks_memory(error):
                        raise
        return found

    def read(size: int) -> float:
        times = math.ceil(LONG_READ / size)
        return times * size / best(probes.read(size, times))

    def product(shape: Shape, precision: str, weights: int = 1) -> float:
        call = probes.product(shape.vectors, shape.inputs, shape.outputs, precision, weights)
        return weights * shape.flops / best(call)

    accelerator = probes.accelerator()
    system = accelerator or {"name": processor(), "memory": memory()["total"], "caches": caches()}
    last_level = list(system["caches"].values())[-1] if system["caches"] else 2**25
    sizes = ladder(largest or 8 * last_level)
    sets = [share * last_level for share in SETS if share * last_level <= sizes[-1]]
    side = SQUARE["cuda" if accelerator else "cpu"]
    return Ceilings(
        device=device,
        name=system["name"],
        threads=threads,
        memory=system["memory"],
        launch=launches(),
        peaks={precision: product(Shape(side, side, side), precision) for precision in shapes},
        rates={precision: all_rates(precision, its) for precision, its in shapes.items()},
        read=[(size, read(size)) for size in sizes],
        copy=[(size, size / best(probes.copy(size))) for size in sizes],
        caches=system["caches"],
        matmul=probes.matmul(),
    )


def ladder(largest: int, smallest: int = SMALLEST_SET) -> list[int]:
    """Sizes in bytes from `smallest` to `largest` (or to twice the smallest if that is more), two to each doubling."""
    largest = max(largest, 2 * smallest)
    steps = max(1, round(2 * math.log2(largest / smallest)))
    return [round(smallest * (largest / smallest) ** (step / steps) / 8) * 8 for step in range(steps + 1)]


def caches(folder: Path = CACHES) -> dict[str, int]:
    """Bytes of each level of data cache of a processor by name (L1, L2, …), as Linux says; empty where it does not."""
    found = {}
    for index in sorted(folder.glob("index*")):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        given = re.fullmatch(r"(\d+)([KMG]?)", size)
        if kind != "Instruction" and given and int(given[1]):
            found[f"L{level}"] = int(given[1]) * UNITS.get(given[2], 1)
    return dict(sorted(found.items()))
