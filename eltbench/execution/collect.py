"""A study's rows from the measurements of its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa

from eltbench.evidence import results
from eltbench.evidence.schema import row_schema
from eltbench.execution.store import RunStore, set_aside
from eltbench.training.job import Job


def collect(
    jobs: Sequence[Job], store: RunStore, study: str, preset: str, extra: Mapping[str, pa.DataType]
) -> pd.DataFrame:
    """The study's rows from the measurements of the planned runs; runs without a measurement give none,
    and those of which a part failed the rows of the others.

    Each row is stamped with study, preset and the key columns of its job. A damaged measurement is set aside and
    raises ValueError naming it: the repeated command measures it again.
    """
    schema, damaged = row_schema(extra), []
    parts = [schema.empty_table()]
    for job in jobs:
        path = store.measurement_path(job.run_id, study, job.digest)
        if not path.exists() and not (path := store.incomplete_path(job.run_id, study, job.digest)).exists():
            continue
        try:
            part = results.read_table(path)
        except results.DamagedError as error:
            damaged.append(set_aside(path, str(error)))
            continue
        parts.append(_stamped(part, schema, {"study": study, "preset": preset, **job.keys}))
    if damaged:
        raise ValueError("\n".join([*damaged, "repeat the command to measure these again"]))
    return pa.concat_tables(parts).to_pandas()


def collect_table(jobs: Sequence[Job], store: RunStore, name: str) -> pd.DataFrame:
    """One raw table of the measurements of the planned runs, keyed by run_id; raises ValueError for a damaged file."""
    tables = []
    for path in dict.fromkeys(store.measurement_path(job.run_id, str(job.study), job.digest) for job in jobs):
        raw = path.with_suffix(f".{name}.parquet")
        if path.exists() and raw.exists():
            try:
                tables.append(results.raw_table(raw))
            except results.DamagedError as error:
                said = [set_aside(raw, str(error)), set_aside(path, f"belongs to {raw.name}")]
                raise ValueError("\n".join([*said, "repeat the command to measure this again"])) from None
    return results.joined(tables).to_pandas()


def _stamped(part: pa.Table, schema: pa.Schema, stamps: Mapping[str, Any]) -> pa.Table:
    """The part in the form of `schema`, with one value in every row of the stamped columns."""
    lacking = [name for name in schema.names if name not in stamps and name not in part.column_names]
    if lacking:
        raise ValueError(
            f"a measurement lacks the columns {lacking}: they were declared later; raise the study's version"
        )
    columns = [
        pa.repeat(pa.scalar(stamps[field.name], field.type), len(part))
        if field.name in stamps
        else part.column(field.name)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)
