"""The run cache as a whole: list, filter and prune its runs, and merge caches into one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from filelock import Timeout

from eltbench import backends, data, tasks, trainers
from eltbench.core import atomic
from eltbench.core.registry import Registry, UnknownNameError
from eltbench.core.validation import printable, unknown
from eltbench.evidence import results
from eltbench.execution.store import RunStore, State, problems

PARTS: Mapping[str, Registry[Any]] = {
    "trainer": trainers.registry,
    "task": tasks.registry,
    "dataset": data.registry,
    "backend": backends.registry,
}


@dataclass(frozen=True)
class Cached:
    """A run's folder as it was found; `config` is the content of run.json, empty where that cannot be read."""

    run_id: str
    state: State
    config: Mapping[str, Any] = field(repr=False)
    size: int  # bytes of all its files
    modified: float  # when its newest file was written, seconds since 1970

    @property
    def name(self) -> str:
        """The run in a few words, for a list."""
        if not self.config:
            return "unknown: run.json is absent or unreadable"
        shape, said = self.config.get("architecture"), [str(self.config.get(name)) for name in PARTS]
        if isinstance(shape, dict):
            said += [f"{shape.get('unique_layers')}N×{shape.get('max_loops')}L width {shape.get('width')}"]
        return printable(f"{' '.join(said)} seed {self.config.get('seed')}")


@dataclass(frozen=True)
class Filter:
    """Selects runs: every given condition must hold; an empty filter selects every run.

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
        """Whether there is any condition."""
        return self != Filter()

    def keeps(self, cached: Cached, now: float) -> bool:
        """Whether the run is selected; `now` is in seconds since 1970."""
        age = now - cached.modified
        return (
            (not self.run_ids or cached.run_id.startswith(self.run_ids))
            and (not self.states or cached.state in self.states)
            and (self.older_than is None or age > self.older_than)
            and (self.newer_than is None or age < self.newer_than)
            and all(
                not (wanted := getattr(self, f"{name}s")) or cached.config.get(name) in wanted
                for name in (*PARTS, "seed")
            )
        )


def cached_runs(store: RunStore, wanted: Filter | None = None, now: float | None = None) -> list[Cached]:
    """The runs that a filter selects, by id; nothing is changed and no checkpoint read.

    Raises ValueError for a folder that does not exist, and for a name in the filter that neither a run of the cache
    nor this eltbench knows, with the near miss.
    """
    if not store.root.is_dir():
        raise ValueError(f"no run cache at {store.root}; give --runs the folder that holds the runs")
    wanted, now = wanted or Filter(), time.time() if now is None else now
    every = [_look(store, name) for name in sorted(os.listdir(store.root)) if _is_run(store.root / name)]
    for what, registry in PARTS.items():
        here = {str(each.config.get(what)) for each in every if each.config}
        for name in {*getattr(wanted, f"{what}s")} - here:
            try:
                registry.check(name)
            except UnknownNameError:
                raise ValueError(unknown(what, name, sorted({*here, *registry.names()}))) from None
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
    return Cached(
        run_id,
        store.state(run_id),
        config if isinstance(config, dict) else {},
        sum(about.st_size for _, about in files),
        max((about.st_mtime for path, about in files if path != "lock"), default=directory.stat().st_mtime),
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


class Merged(NamedTuple):
    """The runs of a merge, how many of them several origins had, and how many unfinished ones were left out."""

    runs: int
    duplicates: int
    unfinished: int


def merge_caches(origins: Sequence[Path], into: Path, dry_run: bool = False) -> Merged:
    """Copy the finished runs of all origins, with what was measured of them, into one cache, which counts as one too.

    Of a run that several have, the earliest record is kept, with the others as `also_made`; of a measurement, the
    earliest rows. Everything is checked before anything is written: raises ContradictionError for other weights or
    values of one run, ValueError for damage, rows of another schema and a run in work.
    """
    stores = {str(path): RunStore(path) for path in (*origins, *([into] if into.is_dir() else []))}
    unfinished, holders = 0, dict[str, dict[str, Cached]]()
    for origin, store in stores.items():
        for each in cached_runs(store):
            if each.state == "done":
                holders.setdefault(each.run_id, {})[origin] = each
            elif damage := store.record_damage(each.run_id):
                raise ValueError(_refusal(store, each.run_id, store.directory(each.run_id) / "done.json", damage))
            else:
                unfinished += origin != str(into)
    for run_id, its in holders.items():
        _check(run_id, {origin: stores[origin] for origin in its})
    if not dry_run:
        target = RunStore(into)
        atomic.check_writable(into)
        for run_id, its in holders.items():
            if set(its) != {str(into)}:
                _copy(run_id, [stores[origin] for origin in its], target)
    return Merged(len(holders), sum(len(its) > 1 for its in holders.values()), unfinished)


def _check(run_id: str, stores: Mapping[str, RunStore]) -> None:
    """Raise ValueError where the run is damaged somewhere or not the same everywhere."""
    from eltbench.execution.results_merge import ContradictionError, merged_rows  # loads the studies

    for store in stores.values():
        for problem in problems(store, run_id):
            if problem.damaged or problem.path.suffix == ".parquet":
                raise ValueError(_refusal(store, run_id, problem.path, problem.what))
    first, *others = stores
    for other in others:
        if not _same_weights(run_id, stores[first], stores[other]):
            made = []
            for origin in (first, other):
                about = stores[origin].read_record(run_id)["provenance"]
                made.append(f"{origin} (made on {about.get('host')}, {about.get('time')})")
            raise ContradictionError(
                f"run {run_id} has other weights in {' and in '.join(made)}: the two machines do not compute the same "
                "bits. Keep the caches apart, or remove the run from one of them: eltbench runs prune "
                f"{run_id} --runs {other}"
            )
    for stem in {path.name for store in stores.values() for path in _measurements(store, run_id)}:
        paths = [path for store in stores.values() for path in _measurements(store, run_id) if path.name == stem]
        tables = {str(path): results.read_table(path) for path in paths}
        if len(tables) > 1 and {len(merged_rows(tables))} != {len(table) for table in tables.values()}:
            raise ContradictionError(
                f"one measurement of run {run_id} has other rows in {' and in '.join(tables)}: remove one"
            )


def _refusal(store: RunStore, run_id: str, path: Path, what: str) -> str:
    mend = f"eltbench runs verify {run_id} --repair --runs {store.root}"
    return f"{path} {what}; what is damaged is set aside by {mend}"


def _same_weights(run_id: str, *stores: RunStore) -> bool:
    """Whether checkpoints and snapshots hold the same tensors to the bit, in files that may differ in their headers."""
    files = [store.read_record(run_id)["checkpoint"] for store in stores]
    names = [{name for name in each if name.endswith(".safetensors")} for each in files]
    return names[0] == names[1] and all(
        files[0][name] == files[1][name]
        or tensors(stores[0].directory(run_id) / name) == tensors(stores[1].directory(run_id) / name)
        for name in names[0]
    )


def tensors(path: Path) -> tuple[dict[str, Any], str]:
    """The header of a safetensors file and the checksum of its tensors.

    The library writes the metadata of two equal checkpoints in whatever order, so their files need not be equal.
    """
    with path.open("rb") as file:
        about = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        return about, hashlib.file_digest(file, "sha256").hexdigest()


def _copy(run_id: str, stores: Iterable[RunStore], target: RunStore) -> None:
    """The run's files from where each was made first, done.json last, so that a run looks finished only when it is."""
    stores = sorted(stores, key=lambda store: (store.read_record(run_id)["provenance"]["time"], str(store.root)))
    directory = target.directory(run_id)
    if directory.is_symlink():
        raise ValueError(f"{directory} {atomic.LINK}; remove it, or merge into its cache")
    try:
        with target.lock(run_id).acquire(timeout=0):
            for name in ("run.json", "log.jsonl", *stores[0].read_record(run_id)["checkpoint"]):
                if atomic.is_file(path := stores[0].directory(run_id) / name):
                    atomic.bring(path, directory / name)
            for store, path in _first_made(run_id, stores):
                raw = [each for each in store.tables(run_id) if each.name.startswith(f"{path.stem}.") and each != path]
                for each in [*raw, path]:  # raw tables before their rows
                    atomic.bring(each, directory / "measurements" / each.name)
            atomic.write_json(directory / "done.json", _joint_record(run_id, stores), indent=2)
    except Timeout:
        raise ValueError(f"run {run_id} is in work in {target.root}: wait for its end and merge again") from None


def _first_made(run_id: str, stores: Sequence[RunStore]) -> list[tuple[RunStore, Path]]:
    """Of every measurement of the run, the rows that were measured first, and where."""
    first: dict[str, tuple[Any, RunStore, Path]] = {}
    for store in stores:
        for path in _measurements(store, run_id):
            time = results.read_columns(path, ["time"])["time"].min()
            if path.name not in first or time < first[path.name][0]:
                first[path.name] = time, store, path
    return [(store, path) for _, store, path in first.values()]


def _joint_record(run_id: str, stores: Sequence[RunStore]) -> dict[str, Any]:
    """The record of the first making, which keeps when and where the run was made again."""
    first, *others = [store.read_record(run_id) for store in stores]
    again = [*(first.get("also_made") or [])]
    for other in others:
        again += [*(other.get("also_made") or []), _making(other)]
    unlike = [each for place, each in enumerate(again) if each not in (_making(first), *again[:place])]
    return {**first, **({"also_made": unlike} if unlike else {})}


def _making(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: record[name] for name in ("seconds", "seeds_together", "resumed", "provenance") if name in record}


def _measurements(store: RunStore, run_id: str) -> list[Path]:
    """The files of rows, without the raw tables beside them."""
    return [path for path in store.tables(run_id) if "." not in path.stem]
