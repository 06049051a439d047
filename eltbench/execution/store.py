"""The run cache on disk: one folder per trained model, its checkpoint, and what was measured of it.

It is written by hand because cache libraries unpickle what they read and trust their files; here names, sizes and
checksums are checked, and locks of the kernel tell who works on a run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from filelock import FileLock, Timeout

from eltbench.backends import checkpoint
from eltbench.core import atomic
from eltbench.core.config import Run, run_from_dict
from eltbench.core.parquet import parquet_damage, read_parquet
from eltbench.core.provenance import provenance
from eltbench.core.registry import UnknownNameError
from eltbench.evidence.schema import SCHEMA_VERSION, VERSION_KEY
from eltbench.training.identity import run_id as identity
from eltbench.training.job import Job
from eltbench.training.record import CHECKPOINT, WEIGHTS, file_damage, file_digest, read_record

State = Literal["done", "partial", "missing", "failed"]


@dataclass(frozen=True)
class RunStore:
    """The folder of all runs: ROOT/RUN_ID/{run.json, checkpoint.*, snapshot-*, log.jsonl, done.json, …}.

    Whoever changes a run's folder holds its lock; reading needs none, since every file appears whole. A folder may come
    from a stranger: of it only files of these names count, links to elsewhere do not, and an error of the system
    (OSError) is never taken for damage.
    """

    root: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", atomic.expanded(self.root))

    def directory(self, run_id: str) -> Path:
        """The run's folder, which need not exist."""
        return self.root / run_id

    def lock(self, run_id: str) -> FileLock:
        """The run's lock, freed by the kernel when its holder dies; ValueError for a folder that cannot have one."""
        for path, why in self.obstacles(run_id).items():
            raise ValueError(f"{path} {why}; eltbench runs verify --repair sets it aside")
        self.directory(run_id).mkdir(parents=True, exist_ok=True)
        return FileLock(self.directory(run_id) / "lock")

    def obstacles(self, run_id: str) -> dict[Path, str]:
        """Paths of lock and measurements that hold something else, such as a link, with the reason."""
        lock, tables = (self.directory(run_id) / name for name in ("lock", "measurements"))
        no_folder = "is no folder" if tables.exists() and not tables.is_dir() else ""
        found = {lock: atomic.not_own(lock), tables: atomic.LINK if tables.is_symlink() else no_folder}
        return {path: why for path, why in found.items() if why}

    def at_work(self, run_id: str) -> bool:
        """Whether a process holds the run's lock now."""
        lock = self.directory(run_id) / "lock"
        if not atomic.is_file(lock):
            return False
        try:
            with FileLock(lock).acquire(timeout=0):
                return False
        except Timeout:
            return True
        except PermissionError:  # another user's cache: nothing can be asked of its locks
            return False

    def state(self, run_id: str) -> State:
        """The state by names and sizes alone; only `repair` reads whole checkpoints."""
        directory, record = self.directory(run_id), self.record(run_id)
        if record is not None and all(
            atomic.is_file(directory / name) and (directory / name).stat().st_size == file["bytes"]
            for name, file in record["checkpoint"].items()
        ):
            return "done"
        if (directory / "failure.txt").exists():
            return "failed"
        return "partial" if (directory / WEIGHTS).exists() else "missing"

    def record(self, run_id: str) -> dict[str, Any] | None:
        """What done.json says (seconds, steps, provenance …), or None where it is absent or damaged."""
        try:
            return self.read_record(run_id)
        except (FileNotFoundError, ValueError):
            return None

    def read_record(self, run_id: str) -> dict[str, Any]:
        """The content of done.json; raises ValueError, with the reason, unless `finish` could have written it."""
        record = read_record(self.directory(run_id) / "done.json")
        if record["run_id"] != run_id:
            raise ValueError(f"is of run {record['run_id']}")
        return record

    def record_damage(self, run_id: str) -> str:
        """What is wrong with done.json; empty where it is sound or absent."""
        try:
            self.read_record(run_id)
        except FileNotFoundError:
            pass
        except ValueError as error:
            return str(error)
        return ""

    def failure(self, run_id: str) -> str | None:
        """The traceback of the last attempt, or None where it did not fail."""
        path = self.directory(run_id) / "failure.txt"
        return path.read_text(encoding="utf-8") if path.exists() else None

    def measurement_path(self, run_id: str, study: str, digest: str) -> Path:
        """Where the rows of one measurement lie; its raw tables lie beside it as STEM.TABLE.parquet."""
        return self.directory(run_id) / "measurements" / f"{study}-{digest}.parquet"

    def incomplete_path(self, run_id: str, study: str, digest: str) -> Path:
        """Where the rows lie of a measurement of which a part failed, which is not cached."""
        return self.measurement_path(run_id, study, digest).with_suffix(".incomplete.parquet")

    def measured(self, run_id: str, study: str, digest: str) -> bool:
        """Whether the measurement is there and ends as a parquet file does; quick enough for thousands a second."""
        path = self.measurement_path(run_id, study, digest)
        return not path.is_symlink() and not path.parent.is_symlink() and _ends_as_parquet(path)

    def is_cached(self, job: Job) -> bool:
        """Whether nothing of the job is left to do."""
        if self.state(job.run_id) != "done":
            return False
        return job.study is None or self.measured(job.run_id, job.study, job.digest)

    def begin(self, run: Run, run_id: str) -> None:
        """Write run.json; the caller holds the lock."""
        path = self.directory(run_id) / "run.json"
        if not path.exists():
            atomic.write_text(path, json.dumps(run.to_dict(), indent=2) + "\n")

    def finish(self, run: Run, run_id: str, seconds: float, resumed: bool, seeds_together: int = 1) -> None:
        """Write done.json with the hash of every checkpoint file and snapshot; the caller holds the lock.

        seeds_together: how many seeds were trained as one program; `seconds` is this one's share of the time.
        """
        directory = self.directory(run_id)
        names = [*CHECKPOINT, *(checkpoint.snapshot_name(step) for step in run.optimisation.snapshots)]
        files = {name: file_digest(directory / name) for name in names if (directory / name).exists()}
        record = {
            "run_id": run_id,
            "steps": run.optimisation.steps,
            "seconds": round(seconds, 3),
            "seeds_together": seeds_together,
            "resumed": resumed,  # if so, `seconds` counts the last attempt alone
            "checkpoint": files,
            "provenance": provenance(),
        }
        atomic.write_json(directory / "done.json", record, indent=2)
        self.forgive(run_id)

    def fail(self, run_id: str, traceback: str) -> None:
        """Leave the traceback of a failed attempt, which is never taken for a result; the caller holds the lock."""
        atomic.write_text(self.directory(run_id) / "failure.txt", traceback)

    def forgive(self, run_id: str) -> None:
        """Forget the failure of an earlier attempt; the caller holds the lock."""
        (self.directory(run_id) / "failure.txt").unlink(missing_ok=True)

    def repair(self, run_id: str, warn: Callable[[str], None]) -> None:
        """Set damaged files aside, one warning each, and drop what killed writers left; the caller holds the lock."""
        directory = self.directory(run_id)
        if directory.is_symlink():  # into another cache, whose run it is
            return
        for folder in (directory, directory / "measurements"):
            if folder.is_dir():
                atomic.clear(folder)
        for path, why, lost in self.damage(run_id):
            for each in filter(os.path.lexists, lost):
                warn(set_aside(each, why if each == path else f"{path.name} {why}"))

    def damage(self, run_id: str) -> Iterator[tuple[Path, str, list[Path]]]:
        """Every damaged file, found by reading all of them; what is wrong with it, and which files go with it."""
        directory = self.directory(run_id)
        if why := self.record_damage(run_id):
            yield directory / "done.json", why, [directory / "done.json"]
        if damaged := self._checkpoint_damage(run_id):
            name, why = damaged  # a lost snapshot takes a new training too
            yield directory / name, why, [directory / each for each in dict.fromkeys((*CHECKPOINT, "done.json", name))]
        for path in self.tables(run_id):
            if path.exists() and (why := parquet_damage(path)):  # a raw table is made again with its rows
                yield path, why, list(dict.fromkeys((path, path.with_name(f"{path.name.partition('.')[0]}.parquet"))))

    def tables(self, run_id: str) -> list[Path]:
        """The parquet files of the run's measurements, raw tables too."""
        folder = self.directory(run_id) / "measurements"
        found = [] if folder.is_symlink() else sorted(folder.glob("*.parquet"))
        return [path for path in found if atomic.is_file(path)]

    def _checkpoint_damage(self, run_id: str) -> tuple[str, str] | None:
        """A checkpoint file or snapshot and what is wrong with it: by hash where the run is done, else by form."""
        directory, record = self.directory(run_id), self.record(run_id)
        if record is not None:
            return file_damage(directory, record, record["checkpoint"])
        for path in (directory / WEIGHTS, *directory.glob("snapshot-*.safetensors"), directory / CHECKPOINT[1]):
            if not os.path.lexists(path):
                continue
            if odd := atomic.not_own(path):
                return path.name, odd
            try:
                if path.suffix == ".json":
                    atomic.read_json(path)
                else:
                    with checkpoint.opened(path):
                        pass
            except ValueError as error:
                return path.name, f"is damaged: {error}"
        return None


def set_aside(path: Path, why: str) -> str:
    """Rename a damaged file to NAME.damaged-N and return the line that reports it."""
    number = 1
    while (target := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    path.rename(target)
    return f"damaged file {path} ({why}): set aside as {target.name}, will be redone"


class Problem(NamedTuple):
    """A file of a run that cannot be used, and what is wrong with it."""

    path: Path
    what: str
    damaged: bool = True  # False: the file is as it was written, but no command of this eltbench asks for it


def problems(store: RunStore, run_id: str) -> list[Problem]:
    """Everything wrong in a run's folder, found by reading every file; changes nothing.

    Beside damage, run.json is held against the name of the folder, and rows against the schema's version and the run.
    """
    found = [*_of_config(store.directory(run_id) / "run.json", run_id)]
    found += [Problem(path, why) for path, why in store.obstacles(run_id).items()]
    found += [Problem(path, why) for path, why, _ in store.damage(run_id)]
    unread = {problem.path for problem in found}
    for path in store.tables(run_id):
        if path not in unread and "." not in path.stem and (why := _of_rows(path, run_id)):
            found.append(Problem(path, why, damaged=False))
    return found


def set_damage_aside(store: RunStore, run_id: str, tell: Callable[[str], None]) -> bool:
    """Rename what is damaged, one line each, so that the next command that needs it makes it again.

    Gives False, and leaves the run alone, where a process works on it.
    """
    if store.directory(run_id).is_symlink():
        tell(f"{store.directory(run_id)} is a link into another cache: left alone, repair it there")
        return True
    for path, why in store.obstacles(run_id).items():
        tell(set_aside(path, why))
    try:
        with store.lock(run_id).acquire(timeout=0):
            store.repair(run_id, tell)
    except Timeout:
        return False
    return True


def _of_config(path: Path, run_id: str) -> Iterator[Problem]:
    try:
        if odd := atomic.not_own(path):
            raise ValueError(odd)
        run = run_from_dict(atomic.read_json(path))
        found = identity(run)
    except FileNotFoundError:
        yield Problem(path, "is gone, so that nothing says which run this is", damaged=False)
    except UnknownNameError as error:
        yield Problem(path, f"is of a part that is not installed here: {error}", damaged=False)
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, ImportError) as error:
        yield Problem(path, f"is unreadable: {next(iter(str(error).splitlines()), '')}", damaged=False)
    else:
        if found != run_id:
            what = f"is run {found} in this eltbench: of another version of its parts, or moved here"
            yield Problem(path, what, damaged=False)


def _of_rows(path: Path, run_id: str) -> str:
    """What is wrong with rows that can be read; empty where nothing is."""
    table = read_parquet(path, ["run_id"])
    if table.column_names != ["run_id"]:
        return "holds no rows of a run: no column run_id, or several"
    version = (table.schema.metadata or {}).get(VERSION_KEY, b"").decode(errors="replace")
    ids = {str(run) for run in table.column("run_id").to_pylist()}
    if version != SCHEMA_VERSION:
        return f"has schema version {version or 'none'!r}, this eltbench reads version {SCHEMA_VERSION!r}"
    return "" if ids <= {run_id} else f"holds rows of the runs {sorted(ids)}"


def _ends_as_parquet(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            begin = file.read(4)
            size = file.seek(0, 2)
            file.seek(max(0, size - 8))
            end = file.read()
    except FileNotFoundError:
        return False
    footer = int.from_bytes(end[:4], "little")
    return begin == b"PAR1" == end[4:] and 0 < footer <= size - 12
