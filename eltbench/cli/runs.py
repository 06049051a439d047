"""What `eltbench runs` and `eltbench merge` do: list, verify and prune the run cache; join what machines have."""

from __future__ import annotations

import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro

from eltbench.cli import command_line
from eltbench.core.durations import duration, seconds
from eltbench.core.validation import printable, unknown
from eltbench.evidence.merging import announced
from eltbench.execution import cache
from eltbench.execution.cache import Cached, Filter
from eltbench.execution.cache_merge import merge_caches
from eltbench.execution.damage import problems, set_damage_aside
from eltbench.execution.store import RunStore, State
from eltbench.training.model import runs_root

COLUMNS = "{:16}  {:8} {:>6} {:>10}  {}"
SIZES = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True)
class Listing:
    """List the runs of the cache. What is named narrows the list; all of it must hold.

    Two other actions take the same names: eltbench runs verify checks the files, eltbench runs prune removes runs.
    """

    run: tyro.conf.Positional[tuple[str, ...]] = ()
    """run ids, or beginnings of them"""
    trainers: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    states: tuple[State, ...] = ()
    """done; partial: begun and to be gone on with; failed; missing: a folder without a model"""
    older_than: str | None = None
    """since the newest file of the run was written: 30d, 12h, 90m"""
    newer_than: str | None = None
    runs: Path | None = None
    """where trained runs are kept (default: $ELTBENCH_RUNS, else the user's cache folder)"""

    @property
    def wanted(self) -> Filter:
        """The filter that the command line names; ValueError for an age of another form."""
        older, newer = (
            None if text is None else seconds(name, text)
            for name, text in (("older-than", self.older_than), ("newer-than", self.newer_than))
        )
        names = (self.trainers, self.tasks, self.datasets, self.backends)
        return Filter(self.run, *names, self.seeds, self.states, older, newer)


@dataclass(frozen=True)
class Verifying(Listing):
    """Read every file of the runs and hold it against its checksum; exits 1 where one is damaged."""

    repair: bool = False
    """set damaged files aside, so that the next command that needs them makes them again"""


@dataclass(frozen=True)
class Pruning(Listing):
    """Remove runs with all that was measured of them. Something must be named; a run in work stays."""

    dry_run: bool = False
    """only say what would be removed"""


def runs(arguments: Sequence[str]) -> int:
    """List, verify or prune the run cache; returns the exit code."""
    actions: dict[str, Callable[[Sequence[str]], int]] = {"list": listing, "verify": verify, "prune": prune}
    first, *rest = arguments or ["list"]
    if first in actions:
        with _plainly():
            return actions[first](rest)
    if not first.startswith("-") and not re.fullmatch("[0-9a-f]{1,16}", first):
        raise ValueError(unknown("action of runs", first, list(actions)) + ", or the beginning of a run's id")
    with _plainly():
        return listing(arguments)


def listing(arguments: Sequence[str]) -> int:
    """Print a line for each run, and how many there are."""
    asked = command_line.read(Listing, "eltbench runs", arguments)
    store, found = _found(asked)
    in_work = {each.run_id for each in found if each.state != "done" and store.at_work(each.run_id)}
    now = time.time()
    _print([_line(each, now, each.run_id in in_work) for each in found])
    _sum_up(store, found, in_work=len(in_work))
    return 0


def verify(arguments: Sequence[str]) -> int:
    """Say which runs are damaged, and what to do; exits 1 where one is."""
    asked = command_line.read(Verifying, "eltbench runs verify", arguments)
    store, found = _found(asked)
    counts = Counter(damaged=0, unused=0, in_work=0)
    for each in found:
        if store.at_work(each.run_id):
            counts["in_work"] += 1
            print(f"{each.run_id} is in work: not looked at")
            continue
        wrong = problems(store, each.run_id)
        damaged = any(problem.damaged for problem in wrong)
        counts["damaged"] += damaged
        counts["unused"] += bool(wrong) and not damaged
        for problem in wrong:
            kind = "damaged" if problem.damaged else "of no use here"
            _say(f"{each.run_id} {kind}: {problem.path.relative_to(store.directory(each.run_id))} {problem.what}")
        if damaged and asked.repair and not set_damage_aside(store, each.run_id, _say):
            print(f"{each.run_id} is in work now: left alone")
    if counts["damaged"]:
        first = "" if asked.repair else "eltbench runs verify --repair sets damaged files aside; "
        print(f"{first}the command that made these runs then makes them again")
    if counts["unused"]:
        print("what is of no use here can be removed: eltbench runs prune RUN")
    _sum_up(store, found, verified=len(found) - counts["in_work"], **counts)
    return int(counts["damaged"] > 0)


def prune(arguments: Sequence[str]) -> int:
    """Remove the runs that are named, or say which they would be."""
    asked = command_line.read(Pruning, "eltbench runs prune", arguments)
    if not asked.wanted:
        raise ValueError(
            "prune: name what to remove, for example --states failed partial, --older-than 90d or ids of runs; "
            "--dry-run shows what that would be"
        )
    store, found = _found(asked)
    if asked.dry_run:
        in_work = [each for each in found if store.at_work(each.run_id)]
        removed = [each for each in found if each not in in_work]
    else:
        removed, in_work = cache.prune(store, found)
    now = time.time()
    _print([_line(each, now) for each in removed])
    for each in in_work:
        print(f"{each.run_id} is in work: stays")
    _sum_up(store, removed, removed=0 if asked.dry_run else len(removed), in_work=len(in_work))
    return 0


@dataclass(frozen=True)
class Merging:
    """Merge results folders, or run caches, of several machines; what contradicts another is refused, naming both."""

    origins: tyro.conf.Positional[tuple[Path, ...]]
    """two or more folders of one kind"""
    into: Path
    """where all of it is written; what is there already counts as one more origin"""
    dry_run: bool = False
    """only check, and say what would be merged"""


def merge(arguments: Sequence[str]) -> int:
    """Merge results, or run caches; what a folder is, its content tells."""
    asked = command_line.read(Merging, "eltbench merge", arguments)
    if len({path.resolve() for path in asked.origins}) < 2:
        raise ValueError("merge: name two folders or more, each once")
    for path in asked.origins:
        if not path.is_dir():
            raise ValueError(f"merge: no folder {path}")
    kinds = {_kind(path) for path in asked.origins}
    if len(kinds) > 1:
        raise ValueError("merge: results and run caches cannot be mixed: merge the ones, then the others")
    with _plainly():
        return _merged(asked, kinds.pop())


def _merged(asked: Merging, kind: str) -> int:
    if kind == "run cache":
        done = merge_caches(asked.origins, asked.into, asked.dry_run)
        line = {"into": str(asked.into), **asdict(done)}
    else:
        from eltbench.execution.results_merge import read_folders, write_folder

        folders = read_folders(asked.origins, asked.into)
        with nullcontext() if asked.dry_run else announced(asked.origins, asked.into):
            for folder in folders:
                if not asked.dry_run:
                    write_folder(folder, asked.into)
                _say(f"{asked.into / folder.path}: {len(folder.rows)} rows of {len(folder.origins)} folders")
                if len(folder.origins) > 1 and len(folder.clocks) > 1:
                    said = " and ".join(folder.clocks)
                    _say(f"  its wall-clocks are of {said}: do not compare them across machines")
        line = {"into": str(asked.into), "folders": len(folders), "rows": sum(len(each.rows) for each in folders)}
    print(json.dumps({**line, "dry_run": asked.dry_run}), flush=True)
    return 0


def _kind(path: Path) -> str:
    if any(path.glob("*/run.json")) or any(path.glob("*/done.json")):
        return "run cache"
    if any(path.rglob("rows.parquet")):
        return "results"
    raise ValueError(f"merge: {path} holds neither results (rows.parquet) nor runs (RUN/run.json)")


@contextmanager
def _plainly() -> Iterator[None]:
    """What is refused, also by the system, as a message without a traceback that a terminal may show."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise ValueError("\n".join(map(printable, str(error).split("\n")))) from error


def _say(text: str) -> None:
    """Print a line, of which parts may come from a stranger's files."""
    print(printable(text))


def _found(asked: Listing) -> tuple[RunStore, list[Cached]]:
    store = RunStore(runs_root(asked.runs))
    return store, cache.cached_runs(store, asked.wanted)


def _print(lines: Sequence[str]) -> None:
    """The lines of runs under the names of their columns; nothing where there are none."""
    head = COLUMNS.format("RUN", "STATE", "AGE", "SIZE", "MODEL")
    sys.stdout.write("".join(f"{line}\n" for line in (head, *lines) if lines))


def _line(each: Cached, now: float, in_work: bool = False) -> str:
    state = "in work" if in_work else each.state
    return COLUMNS.format(each.run_id, state, duration(now - each.modified), _size(each.size), each.name)


def _size(size: float) -> str:
    for unit in SIZES:
        if size < 1024 or unit == SIZES[-1]:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError


def _sum_up(store: RunStore, found: Sequence[Cached], **more: int) -> None:
    states: Counter[str] = Counter(each.state for each in found)
    line: dict[str, Any] = {
        "cache": str(store.root),
        "runs": len(found),
        **states,
        **more,
        "bytes": sum(each.size for each in found),
    }
    print(json.dumps(line), flush=True)
