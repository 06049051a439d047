"""A preset measured: the ceilings, then every cell in fresh processes; what is noisy is repeated, then marked."""

from __future__ import annotations

import collections
import contextlib
import signal
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from eltbench.evaluation.speed import stopwatch
from eltbench.evaluation.speed.roofline import Ceilings, ceilings_from_dict
from eltbench.evaluation.speed.stopwatch import Burst
from eltbench.studies.throughput.cell_groups import Preset
from eltbench.studies.throughput.cells import Cell
from eltbench.studies.throughput.process import Nursery, ProcessError

Ask = Callable[[Mapping[str, Any]], dict[str, Any]]
Report = Callable[[int, int, str], None]
"""report(processes done, processes in all, what is next)"""
Turn = tuple[int, Cell]
"""A process and the cell that it measures."""


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
    preset: Preset,
    report: Report = lambda done, of, what: None,
    nursery: Callable[[int], Nursery] = Nursery,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Ceilings, list[Record]]:
    """The machine's ceilings and one record a process, and one more for each repetition.

    Cells take turns, so that a slower hour falls on all of them. What was noisy is repeated when all cells have had
    their turns, since a spell of noise outlasts a cell, and again when all of that have had theirs, up to
    `preset.repeats` times while `preset.patience` lasts; first where the fewest processes are noisy, so that as many
    cells as can be are quiet in the end. The last attempt that gave a value counts. A cell that is skipped once is not
    tried again; one that fails is, in its next process. Raises ProcessError where the ceilings cannot be measured.
    """
    started = clock()
    shapes: dict[str, set[Any]] = {}
    for cell in preset.cells:
        if cell.shapes:
            shapes.setdefault(cell.precision, set()).update(cell.shapes)
    known = {"device": preset.device, "threads": preset.threads}
    asked = {"seconds": preset.ceiling_seconds, "largest": preset.largest_set, "limit": 5 * preset.limit_seconds}
    turns = [(process, cell) for process in range(preset.processes) for cell in preset.cells]
    total = 1 + len(turns)
    report(0, total, "the machine's ceilings")
    sorted_shapes = {name: sorted(its) for name, its in sorted(shapes.items())}
    with nursery(preset.threads) as machine:
        answer = machine.ask({"what": "ceilings", **known, **asked, "shapes": sorted_shapes or {"fp32": []}})
    found: dict[Turn, list[Record]] = {turn: [] for turn in turns}
    done = 1
    with contextlib.ExitStack() as alive:
        nurseries = [alive.enter_context(nursery(preset.threads)) for _ in range(preset.processes)]

        def take(turn: Turn, said: str = "") -> None:
            process, cell = turn
            report(done, total, cell.name + said)
            found[turn].append(_attempt(preset, cell, process, len(found[turn]), known, nurseries[process].ask))

        skipped: set[Cell] = set()
        for turn in turns:
            if turn[1] not in skipped:
                take(turn)
                if found[turn][-1].skipped:
                    skipped.add(turn[1])
            done += 1
        while (due := _noisy(found, preset.repeats)) and clock() - started <= preset.patience:
            total = done + len(due)
            take(due[0], ", again: it was noisy")
            done += 1
    report(done, done, "done")
    records = [replace(each, last=each is _counting(its)) for its in found.values() for each in its]
    return ceilings_from_dict(answer["ceilings"]), records


def _noisy(found: Mapping[Turn, Sequence[Record]], repeats: int) -> list[Turn]:
    """What is to be repeated: first what was tried least, and of that what belongs to the cell nearest to quiet."""
    lacking = collections.Counter(cell for (_, cell), its in found.items() if its and _counting(its).noisy)
    due = [turn for turn, its in found.items() if its and its[-1].noisy and len(its) <= repeats]
    return sorted(due, key=lambda turn: (len(found[turn]), lacking[turn[1]]))


def _counting(attempts: Sequence[Record]) -> Record:
    """The last that gave a value, or else the last."""
    return next((each for each in reversed(attempts) if each.bursts or each.peaks), attempts[-1])


def _attempt(preset: Preset, cell: Cell, process: int, attempt: int, known: Mapping[str, Any], ask: Ask) -> Record:
    seed = zlib.crc32(f"{cell.id} {process} {attempt}".encode())
    message = {**known, "cell": asdict(cell), "process": process, "seed": seed, "limit": preset.limit_seconds}
    message |= {"calls": preset.calls, "burst_seconds": preset.burst_seconds}
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
