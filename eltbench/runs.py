"""The run cache on disk: one folder per trained model, its checkpoint, and what was measured of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open

from eltbench import atomic
from eltbench.backends.checkpoint import snapshot_name
from eltbench.config import Run
from eltbench.identity import run_id
from eltbench.provenance import provenance

State = Literal["done", "partial", "missing", "failed"]
WEIGHTS = "checkpoint.safetensors"
CHECKPOINT = (WEIGHTS, "checkpoint.json")
SNAPSHOTS = "snapshot-*.safetensors"


@dataclass(frozen=True)
class Job:
    """A run to be trained and, if a study is named, one measurement of it.

    `settings` decide what is measured and are hashed with the study's `version`; `keys` are the values of the study's
    key columns that only the plan knows (the role of a control) and touch neither training nor measurement.
    `companions` are other runs whose models the measurement asks: they are trained before anything is measured.
    """

    run: Run
    study: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    keys: Mapping[str, Any] = field(default_factory=dict)
    version: int = 1
    companions: tuple[Run, ...] = ()

    @cached_property
    def run_id(self) -> str:
        """Identity of the run."""
        return run_id(self.run)

    @cached_property
    def digest(self) -> str:
        """Hash of the measurement; raises ValueError where the job names no study."""
        if self.study is None:
            raise ValueError("this job trains a run and measures nothing")
        return measurement_hash(self.study, self.version, self.settings)

    @property
    def name(self) -> str:
        """The run in words, for people: no two runs of a study have one name."""
        return f"{self.model} seed {self.run.seed}"

    @property
    def model(self) -> str:
        """What all seeds of this run are: its size, options, and whatever else of its architecture is not usual."""
        run, shape = self.run, self.run.architecture
        trainer, task, dataset = (
            name + (f" ({' '.join(f'{key}={value}' for key, value in options)})" if options else "")
            for name, options in (
                (run.trainer, run.trainer_options),
                (run.task, run.task_options),
                (run.dataset, run.dataset_options),
            )
        )
        size = f"{shape.unique_layers}N×{shape.max_loops}L"
        said = ("unique_layers", "max_loops")
        others = {field.name: field.default for field in fields(shape) if field.name not in said}
        unusual = [f"{name}={value}" for name, usual in others.items() if (value := getattr(shape, name)) != usual]
        return " ".join([trainer, task, dataset, size, *unusual, *([] if run.backend == "torch" else [run.backend])])


def measurement_hash(study: str, version: int, settings: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits of what is measured: the study, its version and every setting."""
    canonical = json.dumps([study, version, dict(settings)], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class RunStore:
    """The folder of all runs: ROOT/RUN_ID/{run.json, checkpoint.*, snapshot-*, log.jsonl, done.json, …}.

    Whoever changes a run's folder holds its lock; reading needs none, since every file appears whole.
    """

    root: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(self.root))

    def directory(self, run_id: str) -> Path:
        """The run's folder, which need not exist."""
        return self.root / run_id

    def lock(self, run_id: str) -> FileLock:
        """The run's lock, freed by the kernel when its holder dies."""
        self.directory(run_id).mkdir(parents=True, exist_ok=True)
        return FileLock(self.directory(run_id) / "lock")

    def at_work(self, run_id: str) -> bool:
        """Whether a process holds the run's lock now."""
        if not (self.directory(run_id) / "lock").exists():
            return False
        try:
            with self.lock(run_id).acquire(timeout=0):
                return False
        except Timeout:
            return True
        except PermissionError:  # another user's cache: nothing can be asked of its locks
            return False

    def state(self, run_id: str) -> State:
        """What is there, judged by names and sizes alone; only `repair` reads whole checkpoints."""
        directory = self.directory(run_id)
        if self._sizes_agree(run_id):
            return "done"
        if (directory / "failure.txt").exists():
            return "failed"
        return "partial" if (directory / WEIGHTS).exists() else "missing"

    def record(self, run_id: str) -> dict[str, Any] | None:
        """What done.json says (seconds, steps, provenance …), or None where it is absent or damaged."""
        try:
            record = json.loads((self.directory(run_id) / "done.json").read_bytes())
        except (OSError, ValueError):
            return None
        return record if isinstance(record, dict) and isinstance(record.get("checkpoint"), dict) else None

    def failure(self, run_id: str) -> str | None:
        """The traceback of the last attempt, or None where it did not fail."""
        path = self.directory(run_id) / "failure.txt"
        return path.read_text(encoding="utf-8") if path.exists() else None

    def measurement_path(self, run_id: str, study: str, digest: str) -> Path:
        """Where the rows of one measurement lie; its raw tables lie beside it as STEM.TABLE.parquet."""
        return self.directory(run_id) / "measurements" / f"{study}-{digest}.parquet"

    def measured(self, run_id: str, study: str, digest: str) -> bool:
        """Whether the measurement is there and ends as a parquet file does; thousands are asked in a second."""
        return _ends_as_parquet(self.measurement_path(run_id, study, digest))

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
        names = [*CHECKPOINT, *(snapshot_name(step) for step in run.optimisation.snapshots)]
        files = {name: _digest(directory / name) for name in names if (directory / name).exists()}
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
        for folder in (directory, directory / "measurements"):
            for leftover in folder.glob(atomic.TEMPORARY):
                leftover.unlink(missing_ok=True)
        if (directory / "done.json").exists() and self.record(run_id) is None:
            warn(set_aside(directory / "done.json", "unreadable"))
        if damage := self.damage(run_id):
            damaged, problem = damage
            for name in dict.fromkeys((*CHECKPOINT, "done.json", damaged)):  # a lost snapshot takes a new training too
                if (directory / name).exists():
                    warn(set_aside(directory / name, f"{damaged} {problem}"))
        for path in sorted((directory / "measurements").glob("*.parquet")):
            if path.exists() and (problem := parquet_damage(path)):
                warn(set_aside(path, problem))
                rows = path.with_name(path.name.partition(".")[0] + ".parquet")
                if rows.exists():  # a raw table is made again with its rows
                    warn(set_aside(rows, f"belongs to {path.name}"))

    def _sizes_agree(self, run_id: str) -> bool:
        record = self.record(run_id)
        if record is None or WEIGHTS not in record["checkpoint"]:
            return False
        directory = self.directory(run_id)
        try:
            files = record["checkpoint"].items()
            return all((directory / name).stat().st_size == file["bytes"] for name, file in files)
        except OSError:
            return False

    def damage(self, run_id: str) -> tuple[str, str] | None:
        """A checkpoint file or snapshot and what is wrong with it: by hash where the run is done, else by form."""
        directory, record = self.directory(run_id), self.record(run_id)
        if record is not None:
            for name, file in record["checkpoint"].items():
                if not (directory / name).exists():
                    return name, "is gone"
                if _digest(directory / name) != file:
                    return name, "is not the file that was written"
            return None
        weights, about = (directory / name for name in CHECKPOINT)
        for path in (weights, *directory.glob(SNAPSHOTS)):
            if path.exists():
                try:
                    with safe_open(path, framework="numpy"):
                        pass
                except (SafetensorError, OSError) as error:
                    return path.name, f"is damaged: {error}"
        if about.exists():
            try:
                json.loads(about.read_bytes())
            except ValueError as error:
                return about.name, f"is damaged: {error}"
        return None


def set_aside(path: Path, why: str) -> str:
    """Rename a damaged file to NAME.damaged-N and return the line that reports it."""
    number = 1
    while (target := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    path.rename(target)
    return f"damaged file {path} ({why}): set aside as {target.name}, will be redone"


def _digest(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": path.stat().st_size}


def _ends_as_parquet(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            begin = file.read(4)
            size = file.seek(0, 2)
            file.seek(max(0, size - 8))
            end = file.read()
    except OSError:
        return False
    footer = int.from_bytes(end[:4], "little")
    return begin == b"PAR1" == end[4:] and 0 < footer <= size - 12


def parquet_damage(path: Path) -> str:
    """What is wrong with a parquet file, found by reading all of it; empty where nothing is."""
    try:
        pq.read_table(path, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        return str(error).splitlines()[0]
    return ""
