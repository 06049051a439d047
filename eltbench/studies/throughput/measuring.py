"""A preset measured: the ceilings, then every cell in fresh processes; what is noisy is repeated, then marked."""

from __future__ import annotations

import collections
import contextlib
import signal
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

from eltbench.evaluation.speed import stopwatch
from eltbench.evaluation.speed.roofline import Ceilings, ceilings_from_dict
from eltbench.evaluation.speed.stopwatch import Burst
from eltbench.studies.throughput.cell_groups import Preset
from eltbench.studies.throughput.cells import Cell
from eltbench.studies.throughput.timing_process import Nursery, ProcessError, in_gib

Ask = Callable[[Mapping[str, Any]], dict[str, Any]]
Report = Callable[[int, int, str], None]  # of processes done, processes in all, and what is next
Turn = tuple[int, Cell]  # a process and the cell that it measures


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

    Cells take turns, so that a slower hour falls on all of them. Noisy ones are repeated after all others, since a
    spell of noise outlasts a cell, up to `preset.repeats` times while `preset.patience` lasts; first where the fewest
    processes are noisy, so that as many cells as possible end quiet. The last attempt with a value counts. A cell that
    is skipped is not tried again; one that fails is, in its next process. Raises ProcessError without ceilings.
    """
    started = clock()
    shapes: dict[str, set[Any]] = {}
    for cell in preset.cells:
        if cell.shapes:
            shapes.setdefault(cell.precision, set()).update(cell.shapes)
    known = {"device": preset.device, "threads": preset.threads}
    turns = [(process, cell) for process in range(preset.processes) for cell in preset.cells]
    total = 1 + len(turns)
    report(0, total, "the machine's ceilings")
    message = {
        "shapes": {name: sorted(its) for name, its in sorted(shapes.items())} or {"fp32": []},
        "seconds": preset.ceiling_seconds,
        "largest": preset.largest_set,
        "limit": 5 * preset.limit_seconds,
    }
    with nursery(preset.threads) as machine:
        ceilings = ceilings_from_dict(machine.ask({"what": "ceilings", **known, **message})["ceilings"])
    found: dict[Turn, list[Record]] = {turn: [] for turn in turns}
    with contextlib.ExitStack() as alive:
        nurseries = [alive.enter_context(nursery(preset.threads)) for _ in range(preset.processes)]

        def take(turn: Turn, done: int, said: str = "") -> None:
            process, cell = turn
            report(done, total, cell.name + said)
            found[turn].append(_attempt(preset, cell, process, len(found[turn]), known, nurseries[process].ask))

        skipped: set[Cell] = set()
        for done, turn in enumerate(turns, 1):
            if turn[1] not in skipped:
                take(turn, done)
                if found[turn][-1].skipped:
                    skipped.add(turn[1])
        done = total
        while (due := _noisy(found, preset.repeats)) and clock() - started <= preset.patience:
            total = done + len(due)
            take(due[0], done, ", again: it was noisy")
            done += 1
    report(done, done, "done")
    records = [replace(each, last=each is _counting(its)) for its in found.values() for each in its]
    return ceilings, records


def _noisy(found: Mapping[Turn, Sequence[Record]], repeats: int) -> list[Turn]:
    """What is to be repeated: first what was tried least, and of that what belongs to the cell nearest to quiet."""
    lacking = collections.Counter(cell for (_, cell), its in found.items() if its and _counting(its).noisy)
    due = [turn for turn, its in found.items() if its and its[-1].noisy and len(its) <= repeats]
    return sorted(due, key=lambda turn: (len(found[turn]), lacking[turn[1]]))


def _counting(attempts: Sequence[Record]) -> Record:
    """The last that gave a value, or else the last."""
    return next((each for each in reversed(attempts) if each.bursts or each.peaks), attempts[-1])


def _attempt(preset: Preset, cell: Cell, process: int, attempt: int, known: Mapping[str, Any], ask: Ask) -> Record:
    record = partial(Record, cell, process, attempt)
    seed = zlib.crc32(f"{cell.id} {process} {attempt}".encode())
    message = {**known, "cell": asdict(cell), "process": process, "seed": seed, "limit": preset.limit_seconds}
    message |= {"calls": preset.calls, "burst_seconds": preset.burst_seconds}
    trainers = cell.contenders if cell.measure == "memory" else ()
    parts = [{"what": "memory", "contender": name} for name in trainers] or [{"what": "race"}]
    answers = []
    try:
        for part in parts:
            answers.append(ask({**message, **part}))
            if "skipped" in answers[-1]:
                return record(skipped=answers[-1]["skipped"])
    except ProcessError as error:
        if error.killed == signal.SIGALRM:
            return record(skipped=f"took longer than the limit of {preset.limit_seconds:g} s a process")
        if error.killed == signal.SIGKILL:  # of CUDA and of arrays that are too large the library says so itself
            needed = f"the cell needs about {in_gib(cell.needed_bytes())}"
            return record(skipped=f"{error}, as Linux does where memory is short; {needed}")
        return record(failed=str(error))
    if trainers:
        return record(peaks={name: int(each["peak_bytes"]) for name, each in zip(trainers, answers, strict=True)})
    bursts = tuple(Burst(*each) for each in answers[0]["bursts"])
    noisy = stopwatch.spread(bursts) > preset.spread
    return record(bursts=bursts, absent=tuple(answers[0]["absent"]), noisy=noisy)
