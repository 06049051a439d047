"""A preset measured: the ceilings, then every cell in fresh processes; what is noisy is repeated, then marked."""

from __future__ import annotations

import signal
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from eltbench.evaluation import stopwatch
from eltbench.evaluation.roofline import Ceilings, ceilings_from_dict
from eltbench.evaluation.stopwatch import Burst
from eltbench.throughput.cells import Cell
from eltbench.throughput.presets import Preset
from eltbench.throughput.process import Nursery, ProcessError

Ask = Callable[[Mapping[str, Any]], dict[str, Any]]
Report = Callable[[int, int, str], None]
"""report(processes done, processes in all, what is next)"""


@dataclass(frozen=True)
class Record:
    """What one process of a cell gave: bursts or peaks of memory, or why it gave none."""

    cell: Cell
    process: int  # the replicate
    attempt: int = 0  # above 0: again, because the one before was noisy
    bursts: tuple[Burst, ...] = ()
    peaks: Mapping[str, int] = field(default_factory=dict)  # bytes by contender
    absent: tuple[str, ...] = ()  # peers that are not installed
    noisy: bool = False
    last: bool = True  # of its attempts: the one that counts
    skipped: str = ""
    failed: str = ""

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds per call by contender, the median over bursts."""
        return stopwatch.seconds_per_call(self.bursts)

    @property
    def spread(self) -> float | None:
        """How restless the machine was (see `stopwatch.spread`); None where nothing was timed."""
        return stopwatch.spread(self.bursts) if self.bursts else None


def measure(
    preset: Preset, report: Report = lambda done, of, what: None, nursery: Callable[[int], Nursery] = Nursery
) -> tuple[Ceilings, list[Record]]:
    """The machine's ceilings and one record a process, and one more for each repetition.

    Cells take turns, so that a slower hour falls on all of them. A cell that is skipped once is not tried again; one
    that fails is, in its next process. Raises ProcessError where the ceilings cannot be measured.
    """
    shapes: dict[str, set[Any]] = {}
    for cell in preset.cells:
        if cell.shapes:
            shapes.setdefault(cell.precision, set()).update(cell.shapes)
    known = {"device": preset.device, "threads": preset.threads}
    asked = {"seconds": preset.ceiling_seconds, "largest": preset.largest_set, "limit": 5 * preset.limit_seconds}
    total = 1 + preset.processes * len(preset.cells)
    report(0, total, "the machine's ceilings")
    sorted_shapes = {name: sorted(its) for name, its in sorted(shapes.items())}
    with nursery(preset.threads) as machine:
        answer = machine.ask({"what": "ceilings", **known, **asked, "shapes": sorted_shapes or {"fp32": []}})
    ceilings, records, done = ceilings_from_dict(answer["ceilings"]), [], 1
    skipped: set[Cell] = set()
    for process in range(preset.processes):
        with nursery(preset.threads) as its:
            for cell in preset.cells:
                report(done, total, cell.name)
                done += 1
                if cell in skipped:
                    continue
                found = _attempts(preset, cell, process, known, its.ask)
                records += [replace(each, last=each is found[-1]) for each in found]
                if found[-1].skipped:
                    skipped.add(cell)
    report(total, total, "done")
    return ceilings, records


def _attempts(preset: Preset, cell: Cell, process: int, known: Mapping[str, Any], ask: Ask) -> list[Record]:
    """One record, or several of which all but the last were noisy."""
    found: list[Record] = []
    while not found or (found[-1].noisy and len(found) <= preset.repeats):
        found.append(_attempt(preset, cell, process, len(found), known, ask))
    return found


def _attempt(preset: Preset, cell: Cell, process: int, attempt: int, known: Mapping[str, Any], ask: Ask) -> Record:
    seed = zlib.crc32(f"{cell.id} {process} {attempt}".encode())
    message = {**known, "cell": asdict(cell), "seed": seed, "calls": preset.calls, "limit": preset.limit_seconds}
    message["burst_seconds"] = preset.burst_seconds
    try:
        if cell.measure == "memory":
            peaks = {}
            for contender in cell.contenders:
                answer = ask({**message, "what": "memory", "contender": contender})
                if "skipped" in answer:
                    return Record(cell, process, attempt, skipped=answer["skipped"])
                peaks[contender] = int(answer["peak_bytes"])
            return Record(cell, process, attempt, peaks=peaks)
        answer = ask({**message, "what": "race"})
    except ProcessError as error:
        if error.killed == signal.SIGALRM:
            over = f"took longer than the limit of {preset.limit_seconds:g} s a process"
            return Record(cell, process, attempt, skipped=over)
        if error.killed == signal.SIGKILL:  # of CUDA and of arrays that are too large the library says so itself
            needed = f"needs about {cell.needed_bytes() / 2**30:.2f} GiB"
            short = f"{error}, as Linux does where memory is short; the cell {needed}"
            return Record(cell, process, attempt, skipped=short)
        return Record(cell, process, attempt, failed=str(error))
    if "skipped" in answer:
        return Record(cell, process, attempt, skipped=answer["skipped"])
    bursts = tuple(Burst(*each) for each in answer["bursts"])
    noisy = stopwatch.spread(bursts) > preset.spread
    return Record(cell, process, attempt, bursts, absent=tuple(answer["absent"]), noisy=noisy)
