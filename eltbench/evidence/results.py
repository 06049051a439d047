"""Rows on disk: written whole, read back checked, gathered from the runs, and merged with what is published."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from eltbench.core.atomic import expanded, replacing
from eltbench.core.config import Run
from eltbench.core.parquet import DamagedError as DamagedError
from eltbench.core.parquet import read_parquet
from eltbench.core.provenance import row_provenance
from eltbench.evidence.merging import refuse_interrupted
from eltbench.evidence.schema import SCHEMA_VERSION, VERSION_KEY, checked, part_schema, validate
from eltbench.training.job import Job

OF_RUN = ("trainer", "task", "dataset", "backend", "device", "precision", "seed")
OF_ARCHITECTURE = ("unique_layers", "max_loops", "min_loops", "width")
CELL = ("trainer", "task", "dataset", "backend", *OF_ARCHITECTURE, "seed")
"""Columns that, with the study's own key columns, name one model of a plan whatever its version."""


def stamp(
    rows: Iterable[Mapping[str, Any]],
    run: Run,
    run_id: str,
    digest: str,
    extra: Mapping[str, pa.DataType],
    costs: Callable[[int | None], Mapping[str, int]] = lambda loops: {},
) -> pd.DataFrame:
    """Measured rows completed with what the run and this process know; values of the row itself are kept.

    digest: the measurement's identity. costs: params, weight_bytes and macs of a call by its loops (None: no call).
    Raises ValueError where the completed rows do not fit the study's schema.
    """
    schema = part_schema(extra)
    known: dict[str, Any] = {field.name: None for field in schema if field.nullable}  # a gap is None, not pandas' NaN
    known |= {"run_id": run_id, "measurement": digest, **_of_run(run), "compiled": run.compile}
    known |= row_provenance(run.backend)
    completed = []
    for row in rows:
        row = {**costs(loops := row.get("loops")), **row}
        depth = None if loops is None else run.architecture.depth_at(loops)
        flops = None if row.get("macs") is None else 2 * row["macs"]
        completed.append({**known, "effective_depth": depth, "flops": flops, **row})
    return validate(pd.DataFrame(completed), schema).to_pandas()


def _of_run(run: Run) -> dict[str, Any]:
    shape = run.architecture
    return {name: getattr(shape if name in OF_ARCHITECTURE else run, name) for name in (*OF_RUN, *OF_ARCHITECTURE)}


def write_rows(path: Path, frame: pd.DataFrame, schema: pa.Schema) -> None:
    """Write rows as parquet, atomically; raises ValueError where they do not fit `schema`."""
    write_table(path, validate(frame, schema))


def write_table(path: Path, table: pa.Table) -> None:
    """Write any table as compressed parquet with checksums, atomically."""
    with replacing(path) as temporary, temporary.open("wb") as file:  # by itself pyarrow would read ~ in a path
        pq.write_table(table, file, compression="zstd", write_page_checksum=True)


ORIGIN = ("package_version", "git_commit", "libraries", "measurement")
"""Columns whose long texts say where rows come from: a few, each in many rows."""

CHECKSUM = "rows_sha256"
"""Of the last command in a provenance.json: the checksum of the rows that were published with it."""


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_two_states(path: Path) -> str:
    """A note where the provenance beside published rows has another checksum than they; empty otherwise."""
    try:
        said = json.loads(path.with_name("provenance.json").read_bytes())["commands"][-1].get(CHECKSUM)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return ""
    if said is None or said == checksum(path):  # older results have no checksum
        return ""
    return (
        f"{path} and the files beside it are of two states: a command was stopped while it published, or a file was "
        "changed; repeat the command"
    )


def count(path: Path) -> int:
    """How many rows a file holds; raises ValueError when it is damaged."""
    try:
        with path.open("rb") as file:
            return pq.ParquetFile(file).metadata.num_rows
    except FileNotFoundError:
        raise ValueError(f"no rows at {path}") from None
    except (OSError, pa.ArrowException) as error:
        raise DamagedError(f"{path} is damaged or no parquet file: {str(error).splitlines()[0]}") from None


def read_rows(path: Path) -> pd.DataFrame:
    """The rows of one file; raises ValueError when it is damaged, no table of rows, or of another schema version."""
    return read_table(path).to_pandas()


def read_published(path: Path, extra: Mapping[str, pa.DataType] | None = None, *, merging: bool = False) -> pa.Table:
    """The published rows of one file, as typed there, with the shared columns and those of `extra`.

    merging: also where a merge into the folder did not end. Raises ValueError when it is damaged, no table of rows, of
    another schema version, or holds what the schema forbids.
    """
    table = read_table(path, merging=merging)
    try:
        return checked(table, extra)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def slim(table: pa.Table) -> pd.DataFrame:
    """The rows in the least memory: what names their origin, the same text in row after row, as categories."""
    encoded = [
        pc.dictionary_encode(each) if name in ORIGIN else each
        for name, each in zip(table.column_names, table.columns, strict=True)
    ]
    return pa.Table.from_arrays(encoded, names=table.column_names).to_pandas()


def read_table(path: Path, names: set[str] | None = None, *, merging: bool = False) -> pa.Table:
    """The rows of one file as they are typed there, or the named columns alone; raises as `read_rows` does."""
    if not merging:
        refuse_interrupted(path.parent)
    table = raw_table(path, names)
    version = (table.schema.metadata or {}).get(VERSION_KEY, b"").decode(errors="replace")
    if version != SCHEMA_VERSION:
        found = f"schema version {version!r}" if version else "no schema version"
        raise ValueError(f"{path} has {found}, this eltbench reads version {SCHEMA_VERSION!r}; make the results anew")
    return table


def raw_table(path: Path, names: set[str] | None = None) -> pa.Table:
    """A table of any schema version; raises ValueError when it is not there or damaged."""
    try:
        return read_parquet(path, names)
    except FileNotFoundError:
        raise ValueError(f"no rows at {path}") from None
    except DamagedError as error:
        raise DamagedError(f"{path} is damaged or no parquet file: {error}") from None


def read_columns(path: Path, names: Iterable[str]) -> pd.DataFrame:
    """Those of the named columns that the rows of one file have; nothing else is read. Raises ValueError if damaged."""
    return read_table(path, set(names)).to_pandas()


def load_rows(path: str | Path) -> pd.DataFrame:
    """Published rows of a parquet file, or of every rows.parquet below a folder; columns as in `schema.COLUMNS`.

    Warns where the files beside them belong to other rows. Raises ValueError when there is none, and as
    `read_published` does.
    """
    path = expanded(path)
    files = [path] if path.is_file() or path.suffix == ".parquet" else sorted(path.rglob("rows.parquet"))
    if not files:
        message = f"no rows.parquet in {path} or below it"
        match path.resolve().parts:
            case (*_, "results", study, preset):
                message += f"; python -m eltbench.studies.{study} --preset {preset} writes them"
        raise ValueError(message)
    for file in files:
        if said := of_two_states(file):
            warnings.warn(said, stacklevel=2)
    return joined([read_published(file) for file in files]).to_pandas()


def describe(job: Job) -> dict[str, Any]:
    """The columns of a row that describe its model, known before anything is trained."""
    known = _of_run(job.run)
    return {"run_id": job.run_id, "measurement": job.digest, **{name: known[name] for name in CELL}, **job.keys}


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The lines of a table as dictionaries, with None for what is missing."""
    known = frame.astype(object).where(frame.notna(), None)
    return [{str(name): value for name, value in line.items()} for line in known.to_dict("records")]


Cell = Callable[[Mapping[str, Any]], Hashable]
"""What names one model in a study's table, whatever its version: two models of one cell could not be told apart."""


def refuse_superseded(published: pd.DataFrame, jobs: Sequence[Job], cell: Cell) -> None:
    """Raise ValueError where publishing the plan would mix two versions of one cell; call it before any training."""
    planned = {cell(describe(job)) for job in jobs}
    current = {(job.run_id, job.digest) for job in jobs}
    known = records(published[["run_id", "measurement", *CELL, *jobs[0].keys]].drop_duplicates())
    if stale := [it for it in known if cell(it) in planned and (it["run_id"], it["measurement"]) not in current]:
        raise ValueError(
            f"the published rows hold {len(stale)} models of the planned cells under another identity (configuration, "
            f"measurement or versions changed), for example {stale[0]}; repeat with --force to replace all published "
            "rows by this command's, or choose another results directory"
        )


def merge_published(
    published: pd.DataFrame | None, new: pd.DataFrame, jobs: Sequence[Job], cell: Cell, force: bool = False
) -> pd.DataFrame:
    """New rows beside the published ones that they do not replace; with `force` the new rows alone.

    A narrowed command removes nothing: a run's rows give way only to new rows of that run in the same key columns.
    Raises ValueError where published rows are another version of a planned cell.
    """
    if published is None or force or published.empty:
        return new
    refuse_superseded(published, jobs, cell)
    names = ["run_id", *jobs[0].keys]
    replaced = pd.MultiIndex.from_frame(published[names]).isin(pd.MultiIndex.from_frame(new[names]))
    kept = [pa.Table.from_pandas(frame, preserve_index=False) for frame in (published[~replaced], new)]
    return joined(kept).to_pandas()


def joined(tables: Sequence[pa.Table]) -> pa.Table:
    """The tables under one another; a column that is empty in one keeps the type it has in another."""
    return pa.concat_tables(tables, promote_options="permissive").replace_schema_metadata() if tables else pa.table({})
