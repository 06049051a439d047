"""Whether the files of a cached run are those that were written, and what to do where they are not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import Timeout

from eltbench.config import run_from_dict
from eltbench.identity import run_id as identity
from eltbench.registry import UnknownNameError
from eltbench.runs import RunStore, parquet_damage
from eltbench.schema import SCHEMA_VERSION, VERSION_KEY


class Problem(NamedTuple):
    """A file of a run that cannot be used, and what is wrong with it."""

    path: Path
    what: str
    damaged: bool = True  # False: the file is as it was written, but no command of this eltbench asks for it


def problems(store: RunStore, run_id: str) -> list[Problem]:
    """What is wrong in a run's folder, found by reading every file of it; changes nothing.

    Checkpoint and snapshots are held against their checksums in done.json, tables of measurements against the
    checksums of their pages, the schema's version and the run's id, run.json against the name of the folder.
    """
    directory = store.directory(run_id)
    found = [*_of_config(directory / "run.json", run_id)]
    if (directory / "done.json").exists() and store.record(run_id) is None:
        found.append(Problem(directory / "done.json", "is unreadable"))
    if damage := store.damage(run_id):
        found.append(Problem(directory / damage[0], damage[1]))
    for path in sorted((directory / "measurements").glob("*.parquet")):
        if what := parquet_damage(path):
            found.append(Problem(path, what))
        elif "." not in path.stem and (what := _of_rows(path, run_id)):
            found.append(Problem(path, what, damaged=False))
    return found


def set_damage_aside(store: RunStore, run_id: str, tell: Callable[[str], None]) -> bool:
    """Rename what is damaged, one line each, so that the next command that needs it makes it again.

    Gives False, and leaves the run alone, where a process works on it.
    """
    try:
        with store.lock(run_id).acquire(timeout=0):
            store.repair(run_id, tell)
    except Timeout:
        return False
    return True


def _of_config(path: Path, run_id: str) -> Iterator[Problem]:
    try:
        run = run_from_dict(json.loads(path.read_bytes()))
        found = identity(run)
    except FileNotFoundError:
        yield Problem(path, "is gone, so that nothing says which run this is", damaged=False)
    except UnknownNameError as error:
        yield Problem(path, f"is of a part that is not installed here: {error}", damaged=False)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        yield Problem(path, f"is unreadable: {str(error).splitlines()[0]}", damaged=False)
    else:
        if found != run_id:
            what = f"is run {found} in this eltbench: of another version of its parts, or moved here"
            yield Problem(path, what, damaged=False)


def _of_rows(path: Path, run_id: str) -> str:
    """What is wrong with rows that can be read; empty where nothing is."""
    try:
        with pq.ParquetFile(path) as file:
            version = (file.schema_arrow.metadata or {}).get(VERSION_KEY, b"").decode()
            ids = set(file.read(["run_id"]).column("run_id").to_pylist())
    except (OSError, pa.ArrowException, KeyError) as error:
        return f"holds no rows of a run: {error}"
    if version != SCHEMA_VERSION:
        return f"has schema version {version or 'none'!r}, this eltbench reads version {SCHEMA_VERSION!r}"
    return "" if ids <= {run_id} else f"holds rows of the runs {sorted(ids)}"
