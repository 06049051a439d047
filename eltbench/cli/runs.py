"""The commands `eltbench runs` (list, verify and prune the run cache) and `eltbench merge`."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.filesize import pick_unit_and_suffix

from eltbench.cli import command_line
from eltbench.core.durations import duration, seconds
from eltbench.core.terminal import tell_programs
from eltbench.core.validation import printable, unknown
from eltbench.evidence.merging import announced
from eltbench.execution import cache
from eltbench.execution.cache import Cached, Filter, merge_caches
from eltbench.execution.store import RunStore, State, problems, set_damage_aside
from eltbench.training.model import runs_root

COLUMNS = "{:16}  {:8} {:>6} {:>10}  {}"
SIZES = ["B", "KiB", "MiB", "GiB", "TiB"]


@contextmanager
def _plainly() -> Iterator[None]:
    """Turn refusals, also of the system, into messages without a traceback and safe for a terminal."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise ValueError("\n".join(map(printable, str(error).split("\n")))) from error


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

    def found(self) -> tuple[RunStore, list[Cached]]:
        """The cache, and the selected runs."""
        store = RunStore(runs_root(self.runs))
        return store, cache.cached_runs(store, self.wanted)

    def act(self) -> int:
        """Print a line for each run, and how many there are."""
        store, found = self.found()
        in_work = {each.run_id for each in found if each.state != "done" and store.at_work(each.run_id)}
        _print(found, in_work)
        _sum_up(store, found, in_work=len(in_work))
        return 0


@dataclass(frozen=True)
class Verifying(Listing):
    """Read every file of the runs and hold it against its checksum; exits 1 where one is damaged."""

    repair: bool = False
    """set damaged files aside, so that the next command that needs them makes them again"""

    def act(self) -> int:
        """Print which runs are damaged, and what to do."""
        store, found = self.found()
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
            if damaged and self.repair and not set_damage_aside(store, each.run_id, _say):
                print(f"{each.run_id} is in work now: left alone")
        if counts["damaged"]:
            first = "" if self.repair else "eltbench runs verify --repair sets damaged files aside; "
            print(f"{first}the command that made these runs then makes them again")
        if counts["unused"]:
            print("what is of no use here can be removed: eltbench runs prune RUN")
        _sum_up(store, found, verified=len(found) - counts["in_work"], **counts)
        return int(counts["damaged"] > 0)


@dataclass(frozen=True)
class Pruning(Listing):
    """Remove runs with all that was measured of them. Something must be named; a run in work stays."""

    dry_run: bool = False
    """only say what would be removed"""

    def act(self) -> int:
        """Remove the runs, or list them in a dry run."""
        if not self.wanted:
            raise ValueError(
                "prune: name what to remove, for example --states failed partial, --older-than 90d or ids of runs; "
                "--dry-run shows what that would be"
            )
        store, found = self.found()
        if self.dry_run:
            in_work = [each for each in found if store.at_work(each.run_id)]
            removed = [each for each in found if each not in in_work]
        else:
            removed, in_work = cache.prune(store, found)
        _print(removed)
        for each in in_work:
            print(f"{each.run_id} is in work: stays")
        _sum_up(store, removed, removed=0 if self.dry_run else len(removed), in_work=len(in_work))
        return 0


ACTIONS: dict[str, type[Listing]] = {"list": Listing, "verify": Verifying, "prune": Pruning}


@_plainly()
def runs(arguments: Sequence[str]) -> int:
    """List, verify or prune the run cache; returns the exit code."""
    first = arguments[0] if arguments else ""
    if first and first not in ACTIONS and not first.startswith("-") and not re.fullmatch("[0-9a-f]{1,16}", first):
        raise ValueError(unknown("action of runs", first, list(ACTIONS)) + ", or the beginning of a run's id")
    command = f"eltbench runs {first}" if first in ("verify", "prune") else "eltbench runs"
    rest = arguments[1:] if first in ACTIONS else arguments
    return command_line.read(ACTIONS.get(first, Listing), command, rest).act()


@dataclass(frozen=True)
class Merge:
    """Merge results folders, or run caches, of several machines; what contradicts another is refused, naming both."""

    origins: tyro.conf.Positional[tuple[Path, ...]]
    """two or more folders of one kind"""
    into: Path
    """where all of it is written; what is there already counts as one more origin"""
    dry_run: bool = False
    """only check, and say what would be merged"""

    @_plainly()
    def act(self) -> int:
        """Merge the folders, as results or as run caches."""
        if len({path.resolve() for path in self.origins}) < 2:
            raise ValueError("merge: name two folders or more, each once")
        for path in self.origins:
            if not path.is_dir():
                raise ValueError(f"merge: no folder {path}")
        kinds = {_kind(path) for path in self.origins}
        if len(kinds) > 1:
            raise ValueError("merge: results and run caches cannot be mixed: merge the ones, then the others")
        if kinds == {"run cache"}:
            counts = merge_caches(self.origins, self.into, self.dry_run)._asdict()
        else:
            counts = self._merge_results()
        tell_programs({"into": str(self.into), **counts, "dry_run": self.dry_run})
        return 0

    def _merge_results(self) -> dict[str, int]:
        from eltbench.execution.results_merge import read_folders, write_folder

        folders = read_folders(self.origins, self.into)
        with nullcontext() if self.dry_run else announced(self.origins, self.into):
            for folder in folders:
                if not self.dry_run:
                    write_folder(folder, self.into)
                _say(f"{self.into / folder.path}: {len(folder.rows)} rows of {len(folder.origins)} folders")
                if len(folder.origins) > 1 and len(folder.clocks) > 1:
                    said = " and ".join(folder.clocks)
                    _say(f"  its wall-clocks are of {said}: do not compare them across machines")
        return {"folders": len(folders), "rows": sum(len(each.rows) for each in folders)}


def _kind(path: Path) -> str:
    if any(path.glob("*/run.json")) or any(path.glob("*/done.json")):
        return "run cache"
    if any(path.rglob("rows.parquet")):
        return "results"
    raise ValueError(f"merge: {path} holds neither results (rows.parquet) nor runs (RUN/run.json)")


def _say(text: str) -> None:
    """Print a line that may hold text from a stranger's files."""
    print(printable(text))


def _print(found: Sequence[Cached], in_work: frozenset[str] | set[str] = frozenset()) -> None:
    """A line for each run under the names of the columns; nothing where there are none."""
    now = time.time()
    for place, each in enumerate(found):
        if not place:
            print(COLUMNS.format("RUN", "STATE", "AGE", "SIZE", "MODEL"))
        unit, suffix = pick_unit_and_suffix(each.size, SIZES, 1024)
        size = f"{each.size / unit:.{0 if unit == 1 else 1}f} {suffix}"
        state = "in work" if each.run_id in in_work else each.state
        print(COLUMNS.format(each.run_id, state, duration(now - each.modified), size, each.name))


def _sum_up(store: RunStore, found: Sequence[Cached], **more: int) -> None:
    states: Counter[str] = Counter(each.state for each in found)
    line: dict[str, Any] = {"cache": str(store.root), "runs": len(found), **states, **more}
    tell_programs({**line, "bytes": sum(each.size for each in found)})
