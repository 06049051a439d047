"""The run cache as a whole: which runs it holds, which of them are meant, and what may go."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import Timeout

from eltbench.core import atomic
from eltbench.core.config import Run, run_from_dict
from eltbench.core.registry import UnknownNameError
from eltbench.core.validation import printable, unknown
from eltbench.execution.store import RunStore, State

NAMED = ("trainer", "task", "dataset", "backend")


@dataclass(frozen=True)
class Cached:
    """A run's folder as it was found; `config` is what run.json says, empty where that cannot be read."""

    run_id: str
    state: State
    config: Mapping[str, Any] = field(repr=False)
    size: int  # bytes of all its files
    modified: float  # when its newest file was written, seconds since 1970
    measurements: tuple[str, ...] = ()  # STUDY-DIGEST

    @property
    def run(self) -> Run:
        """The run that the folder was made for; ValueError where run.json is unreadable or of another eltbench."""
        if not self.config:
            raise ValueError("run.json is absent or unreadable")
        return run_from_dict(dict(self.config))

    @property
    def name(self) -> str:
        """The run in a few words, for a list."""
        if not self.config:
            return "unknown: run.json is absent or unreadable"
        shape, said = self.config.get("architecture"), [str(self.config.get(name)) for name in NAMED]
        if isinstance(shape, dict):
            said += [f"{shape.get('unique_layers')}N×{shape.get('max_loops')}L width {shape.get('width')}"]
        return printable(f"{' '.join(said)} seed {self.config.get('seed')}")


@dataclass(frozen=True)
class Filter:
    """Which runs are meant: all of what is named must hold; a filter that names nothing means every run.

    run_ids: whole ids or beginnings. older_than, newer_than: seconds since the newest file of a run was written.
    """

    run_ids: tuple[str, ...] = ()
    trainers: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    states: tuple[State, ...] = ()
    older_than: float | None = None
    newer_than: float | None = None

    def __bool__(self) -> bool:
        """Whether anything is named."""
        return self != Filter()

    def keeps(self, cached: Cached, now: float) -> bool:
        """Whether the run is meant; `now` is the time of asking, seconds since 1970."""
        age = now - cached.modified
        named = (
            not wanted or cached.config.get(name) in wanted
            for name, wanted in zip(
                (*NAMED, "seed"), (self.trainers, self.tasks, self.datasets, self.backends, self.seeds), strict=True
            )
        )
        return (
            (not self.run_ids or cached.run_id.startswith(self.run_ids))
            and (not self.states or cached.state in self.states)
            and (self.older_than is None or age > self.older_than)
            and (self.newer_than is None or age < self.newer_than)
            and all(named)
        )


def cached_runs(store: RunStore, wanted: Filter | None = None, now: float | None = None) -> list[Cached]:
    """The runs of the cache that a filter means, by id; nothing is changed and no checkpoint read.

    Raises ValueError for a folder that does not exist, and for a name in the filter that neither a run of the cache
    nor this eltbench knows, with the near miss.
    """
    if not store.root.is_dir():
        raise ValueError(f"no run cache at {store.root}; give --runs the folder that holds the runs")
    wanted, now = wanted or Filter(), time.time() if now is None else now
    every = [_look(store, name) for name in sorted(os.listdir(store.root)) if _is_run(store.root / name)]
    for what in NAMED:
        _check_names(what, getattr(wanted, f"{what}s"), {str(each.config.get(what)) for each in every if each.config})
    for begin in wanted.run_ids:
        if not begin or not any(each.run_id.startswith(begin) for each in every):
            raise ValueError(f"no run in {store.root} has an id that begins with {begin!r}")
    return [each for each in every if wanted.keeps(each, now)]


def prune(store: RunStore, runs: Iterable[Cached]) -> tuple[list[Cached], list[Cached]]:
    """Remove these runs with all that was measured of them; gives those removed and those in work, which stay.

    done.json goes first: a removal that is interrupted leaves no run that looks finished.
    """
    removed, in_work = [], []
    for each in runs:
        directory = store.directory(each.run_id)
        if directory.is_symlink():  # into another cache, whose run it is
            directory.unlink()
            removed.append(each)
            continue
        for path in store.obstacles(each.run_id):  # nobody works where these are
            _remove(path)
        try:
            with store.lock(each.run_id).acquire(timeout=0):
                for path in sorted(directory.iterdir(), key=lambda path: path.name != "done.json"):
                    if path.name != "lock":
                        _remove(path)
                (directory / "lock").unlink()
                directory.rmdir()
        except Timeout:
            in_work.append(each)
        else:
            removed.append(each)
    return removed, in_work


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _is_run(folder: Path) -> bool:
    """Whether a folder is a run's: sixteen hexadecimal digits; whatever else a user keeps there is not touched."""
    name = folder.name
    return len(name) == 16 and not set(name) - set("0123456789abcdef") and folder.is_dir()


def _look(store: RunStore, run_id: str) -> Cached:
    directory = store.directory(run_id)
    files = list(_files(directory))
    try:
        config = {} if atomic.not_own(directory / "run.json") else atomic.read_json(directory / "run.json")
    except (OSError, ValueError):
        config = {}
    measured = [
        path.removesuffix(".parquet") for path, _ in files if path.endswith(".parquet") and path.count(".") == 1
    ]
    return Cached(
        run_id,
        store.state(run_id),
        config if isinstance(config, dict) else {},
        sum(about.st_size for _, about in files),
        max((about.st_mtime for path, about in files if path != "lock"), default=directory.stat().st_mtime),
        tuple(sorted(measured)),
    )


def _files(directory: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Name and status of every file of a run; one that vanishes meanwhile is passed over."""
    for folder in (directory, directory / "measurements"):
        if folder != directory and folder.is_symlink():
            continue
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_file(follow_symlinks=False):
                        yield entry.name, entry.stat(follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            pass


def _check_names(what: str, names: Sequence[str], here: set[str]) -> None:
    from eltbench import backends, data, tasks, trainers

    registry = {"trainer": trainers, "task": tasks, "dataset": data, "backend": backends}[what].registry
    for name in names:
        if name not in here:
            try:
                registry.check(name)
            except UnknownNameError:
                raise ValueError(unknown(what, name, sorted({*here, *registry.names()}))) from None
