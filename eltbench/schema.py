"""The one form of a published row: names, types, units, and what may be empty."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd
import pyarrow as pa

SCHEMA_VERSION = "1"
VERSION_KEY = b"eltbench_schema"


class Column(NamedTuple):
    """One column: its arrow type, what it means with its unit, and whether it may be empty (null)."""

    type: pa.DataType
    meaning: str
    nullable: bool = False


COLUMNS: dict[str, Column] = {
    "study": Column(pa.string(), "the question asked"),
    "preset": Column(pa.string(), "named size of the study"),
    "run_id": Column(pa.string(), "identity of the trained model, 16 hexadecimal digits"),
    "trainer": Column(pa.string(), "how the network was supervised"),
    "task": Column(pa.string(), "what one network call predicts"),
    "dataset": Column(pa.string(), "the data it was trained on"),
    "backend": Column(pa.string(), "torch or jax"),
    "device": Column(pa.string(), "cpu, cuda, …: where it was trained"),
    "precision": Column(pa.string(), "fp32 or bf16"),
    "compiled": Column(pa.bool_(), "whether the block was compiled"),
    "unique_layers": Column(pa.int64(), "N, layers"),
    "max_loops": Column(pa.int64(), "L_max, loops"),
    "min_loops": Column(pa.int64(), "L_min, loops"),
    "loops": Column(pa.int64(), "L of this row; empty where the metric has no loop count", True),
    "effective_depth": Column(pa.int64(), "N times this row's L, layers", True),
    "width": Column(pa.int64(), "width of the residual stream, channels"),
    "params": Column(pa.int64(), "trained values of the model", True),
    "weight_bytes": Column(pa.int64(), "bytes of the weights at the run's precision", True),
    "macs": Column(pa.int64(), "multiply-accumulates per network call and item at this row's L", True),
    "flops": Column(pa.int64(), "2 × macs", True),
    "seed": Column(pa.int64(), "training seed"),
    "split": Column(pa.string(), "the data that was looked at: train, heldout; empty where none was", True),
    "metric": Column(pa.string(), "what was measured"),
    "value": Column(pa.float64(), "the measurement, in the metric's unit; empty where it is not a number", True),
    "higher_is_better": Column(pa.bool_(), "direction of the metric", True),
    "n_samples": Column(pa.int64(), "items behind the value", True),
    "feature_extractor": Column(pa.string(), "name and hash of the features behind a distance", True),
    "measurement": Column(pa.string(), "identity of the measurement: study, version and settings, 12 digits"),
    "package_version": Column(pa.string(), "version of eltbench that measured"),
    "git_commit": Column(pa.string(), "commit of the measuring package; empty outside a repository", True),
    "git_dirty": Column(pa.bool_(), "whether the package had uncommitted changes", True),
    "libraries": Column(pa.string(), "versions of the backend's libraries"),
    "host": Column(pa.string(), "machine that measured"),
    "time": Column(pa.timestamp("us", tz="UTC"), "when the measurement was finished, UTC"),
}
"""The columns that every study shares, in their order. A study adds key columns of its own."""


def row_schema(extra: Mapping[str, pa.DataType] | None = None) -> pa.Schema:
    """The schema of a study's rows: the shared columns, then its `extra` key columns, which may be empty."""
    extra = extra or {}
    for name in extra:
        if name in COLUMNS:
            raise ValueError(f"rows: column {name!r} is one of the shared columns and cannot be declared again")
    fields = [pa.field(name, column.type, column.nullable) for name, column in COLUMNS.items()]
    fields += [pa.field(name, arrow_type) for name, arrow_type in extra.items()]
    return pa.schema(fields, metadata={VERSION_KEY: SCHEMA_VERSION.encode()})


def part_schema(extra: Mapping[str, pa.DataType] | None = None) -> pa.Schema:
    """The schema of one measurement before it belongs to a study's table: without study and preset."""
    schema = row_schema(extra)
    return pa.schema([field for field in schema if field.name not in ("study", "preset")], metadata=schema.metadata)


def validate(frame: pd.DataFrame, schema: pa.Schema) -> pa.Table:
    """The frame as an arrow table of exactly `schema`.

    Raises ValueError naming the column that is unknown, missing, of another type, or empty where it must not be.
    """
    unknown = [str(name) for name in frame.columns if name not in schema.names]
    if unknown:
        raise ValueError(f"rows: unknown columns {unknown}; the study declares {schema.names}")
    missing = [name for name in schema.names if name not in frame.columns]
    if missing:
        raise ValueError(f"rows: missing columns {missing}")
    return pa.Table.from_arrays([_typed(frame[field.name], field) for field in schema], schema=schema)


def _typed(values: pd.Series, field: pa.Field) -> pa.Array:
    try:
        given = pa.Array.from_pandas(values)
        if not _agrees(given.type, field.type):
            raise pa.ArrowTypeError(f"found {given.type}")
        array = given.cast(field.type)  # a safe cast: 1.0 becomes 1, but 1.5 is refused
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"rows: column {field.name!r} must hold {field.type}: {error}") from None
    if array.null_count and not field.nullable:
        raise ValueError(f"rows: column {field.name!r} must not be empty, {array.null_count} of {len(array)} rows are")
    return array


def _agrees(given: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether values of one type may stand for the other; pandas turns an integer column with gaps into floats."""
    numbers = (pa.types.is_integer, pa.types.is_floating)
    kinds = (_is_text, pa.types.is_boolean, pa.types.is_timestamp, lambda kind: any(is_(kind) for is_ in numbers))
    return pa.types.is_null(given) or given == wanted or any(is_(given) and is_(wanted) for is_ in kinds)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
