"""Whether the files of a cached run are those that were written, and what to do where they are not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from filelock import Timeout

from eltbench.core import atomic
from eltbench.core.config import run_from_dict
from eltbench.core.parquet import parquet_damage, read_parquet
from eltbench.core.registry import UnknownNameError
from eltbench.evidence.schema import SCHEMA_VERSION, VERSION_KEY
from eltbench.execution.store import RunStore, set_aside
from eltbench.training.identity import run_id as identity


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
    found += [Problem(path, why) for path, why in store.obstacles(run_id).items()]
    if what := store.record_damage(run_id):
        found.append(Problem(directory / "done.json", what))
    if damage := store.damage(run_id):
        found.append(Problem(directory / damage[0], damage[1]))
    for path in store.tables(run_id):
        if what := parquet_damage(path):
            found.append(Problem(path, what))
        elif "." not in path.stem and (what := _of_rows(path, run_id)):
            found.append(Problem(path, what, damaged=False))
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
