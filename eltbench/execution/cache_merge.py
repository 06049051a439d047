"""Run caches of several machines in one, run by run: a run that two of them have must be the same to the bit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import Timeout

from eltbench.core import atomic
from eltbench.evidence import results
from eltbench.evidence.merging import ContradictionError, merged_rows
from eltbench.execution.cache import Cached, cached_runs
from eltbench.execution.damage import problems
from eltbench.execution.store import RunStore


@dataclass(frozen=True)
class Merged:
    """What a merge of run caches did: runs by how many origins had them, and unfinished ones, which it left."""

    runs: int
    duplicates: int
    unfinished: int


def merge_caches(origins: Sequence[Path], into: Path, dry_run: bool = False) -> Merged:
    """Copy the finished runs of all origins, with what was measured of them, into one cache, which counts as one too.

    Of a run in several of them the record of the first making stands, and keeps those of the others as `also_made`; of
    a measurement, the one that was made first. Everything is checked before anything is written: raises
    ContradictionError for other weights or values of one run, ValueError for damage, rows of another schema and a run
    that a process works on.
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
    for store in stores.values():
        for problem in problems(store, run_id):
            if problem.damaged or problem.path.suffix == ".parquet":
                raise ValueError(_refusal(store, run_id, problem.path, problem.what))
    first, *others = stores
    for other in others:
        if not _same_weights(run_id, stores[first], stores[other]):
            made = [f"{origin} ({_made(stores[origin], run_id)})" for origin in (first, other)]
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
    files = [_record(store, run_id)["checkpoint"] for store in stores]
    names = [{name for name in each if name.endswith(".safetensors")} for each in files]
    return names[0] == names[1] and all(
        files[0][name] == files[1][name]
        or tensors(stores[0].directory(run_id) / name) == tensors(stores[1].directory(run_id) / name)
        for name in names[0]
    )


def tensors(path: Path) -> tuple[dict[str, Any], str]:
    """What a safetensors file says of its tensors, and the checksum of their bytes.

    The library writes the metadata of two equal checkpoints in whatever order, so their files need not be equal.
    """
    with path.open("rb") as file:
        about = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        return about, hashlib.file_digest(file, "sha256").hexdigest()


def _copy(run_id: str, stores: Iterable[RunStore], target: RunStore) -> None:
    """The run's files from where each was made first, done.json last, so that a run looks finished only when it is."""
    stores = sorted(stores, key=lambda store: (_record(store, run_id)["provenance"]["time"], str(store.root)))
    directory = target.directory(run_id)
    if directory.is_symlink():
        raise ValueError(f"{directory} {atomic.LINK}; remove it, or merge into its cache")
    try:
        with target.lock(run_id).acquire(timeout=0):
            for name in ("run.json", "log.jsonl", *_record(stores[0], run_id)["checkpoint"]):
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
    first, *others = [_record(store, run_id) for store in stores]
    again = [*first.get("also_made", [])]
    for other in others:
        again += [
            *other.get("also_made", []),
            {name: other[name] for name in ("seconds", "seeds_together", "resumed", "provenance") if name in other},
        ]
    own = {name: first[name] for name in ("seconds", "seeds_together", "resumed", "provenance") if name in first}
    unlike = [each for place, each in enumerate(again) if each != own and each not in again[:place]]
    return {**first, **({"also_made": unlike} if unlike else {})}


def _record(store: RunStore, run_id: str) -> dict[str, Any]:
    try:
        return store.read_record(run_id)
    except ValueError as error:
        raise ValueError(f"{store.directory(run_id) / 'done.json'} {error}") from None


def _made(store: RunStore, run_id: str) -> str:
    about = _record(store, run_id)["provenance"]
    return f"made on {about.get('host')}, {about.get('time')}"


def _measurements(store: RunStore, run_id: str) -> list[Path]:
    """The files of rows, without the raw tables beside them."""
    return [path for path in store.tables(run_id) if "." not in path.stem]
