"""The one form of a published row: names, types, units, and what may be empty."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import reduce
from typing import NamedTuple, NoReturn

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from eltbench.core.config import SIZES

SCHEMA_VERSION = "1"
VERSION_KEY = b"eltbench_schema"


class Column(NamedTuple):
    """One column: its arrow type, what it means with its unit, whether it may be empty (null), and its bounds."""

    type: pa.DataType
    meaning: str
    nullable: bool = False
    least: int | None = None
    most: int | None = None


LOOPS = 16 * SIZES["max_loops"]  # the most that a model is run for, beyond its L_max

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
    "unique_layers": Column(pa.int64(), "N, layers", least=1, most=SIZES["unique_layers"]),
    "max_loops": Column(pa.int64(), "L_max, loops", least=1, most=SIZES["max_loops"]),
    "min_loops": Column(pa.int64(), "L_min, loops", least=1, most=SIZES["min_loops"]),
    "loops": Column(pa.int64(), "L of this row; empty where the metric has no loop count", True, least=1, most=LOOPS),
    "effective_depth": Column(pa.int64(), "N·L, layers, at this row's L; prelude and coda added", True, least=1),
    "width": Column(pa.int64(), "width of the residual stream, channels", least=1, most=SIZES["width"]),
    "params": Column(pa.int64(), "trained values of the model", True, least=0),
    "weight_bytes": Column(pa.int64(), "bytes of the weights at the run's precision", True, least=0),
    "macs": Column(pa.int64(), "multiply-accumulates per network call and item at this row's L", True, least=0),
    "flops": Column(pa.int64(), "2 × macs", True, least=0),
    "seed": Column(pa.int64(), "training seed", least=0),
    "split": Column(pa.string(), "the data that was looked at: train, validation, heldout; empty where none was", True),
    "metric": Column(pa.string(), "what was measured"),
    "value": Column(pa.float64(), "the measurement, in the metric's unit; empty where it is not a number", True),
    "higher_is_better": Column(pa.bool_(), "direction of the metric", True),
    "n_samples": Column(pa.int64(), "items behind the value", True, least=0),
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

OF_MODEL = "run_id trainer task dataset backend device precision compiled unique_layers max_loops min_loops width seed"
"""The columns of a trained model: empty in rows of studies that train none."""

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Characters that steer a terminal or are none, but for the tab and the line break."""


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
    if unknown := [str(name) for name in frame.columns if name not in schema.names]:
        raise ValueError(f"rows: unknown columns {unknown}; the study declares {schema.names}")
    if missing := [name for name in schema.names if name not in frame.columns]:
        raise ValueError(f"rows: missing columns {missing}")
    columns = []
    for field in schema:
        column = _cast(pa.Array.from_pandas(frame[field.name]), field.name, field.type)
        if column.null_count and not field.nullable:
            _refuse_gaps(field.name, column.null_count, len(frame))
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=schema)


def checked(table: pa.Table, extra: Mapping[str, pa.DataType] | None = None) -> pa.Table:
    """A table of published rows with the shared columns, and those of `extra`, in the types of the schema.

    Further columns may hold text, numbers, truths and times. A row of no trained model (it lacks min_loops and another
    of OF_MODEL) may lack all of OF_MODEL. Raises ValueError naming the column that is missing, of another type, empty
    where it must not be, or out of its bounds, and for text that would steer a terminal.
    """
    names, wanted = table.column_names, {**{name: column.type for name, column in COLUMNS.items()}, **(extra or {})}
    if len(set(names)) < len(names):
        raise ValueError(f"rows: columns named twice: {sorted({name for name in names if names.count(name) > 1})}")
    if missing := [name for name in wanted if name not in names]:
        raise ValueError(f"rows: missing columns {missing}")
    columns = []
    for field in table.schema:
        column = table.column(field.name)
        if field.name in wanted:
            column = _cast(column, field.name, wanted[field.name])
        elif not pa.types.is_null(field.type) and not any(is_(field.type) for is_ in KINDS):
            raise ValueError(f"rows: column {field.name!r} must hold text, numbers or times, found {field.type}")
        _check_values(field.name, column)
        columns.append(column)
    typed = pa.Table.from_arrays(columns, names=names).replace_schema_metadata(table.schema.metadata)
    _check_gaps(typed)
    return typed


def _check_values(name: str, column: pa.ChunkedArray) -> None:
    known = COLUMNS.get(name)
    if known is not None and known.least is not None:
        least, most = pc.min_max(column).as_py().values()
        if least is not None and least < known.least:
            raise ValueError(f"rows: column {name!r} must be at least {known.least}, found {least}")
        if most is not None and known.most is not None and most > known.most:
            raise ValueError(f"rows: column {name!r} must be at most {known.most}, found {most}")
    if _is_text(column.type):
        wrong = next((text for text in column.unique().to_pylist() if text and CONTROL.search(text)), None)
        if wrong is not None:
            raise ValueError(f"rows: column {name!r} holds control characters: {wrong[:80]!r}")


def _check_gaps(table: pa.Table) -> None:
    """Raise ValueError where a row of a trained model is empty in a column that must not be."""
    gaps = {
        name: table.column(name).is_null()
        for name, column in COLUMNS.items()
        if not column.nullable and table.column(name).null_count
    }
    of_model = OF_MODEL.split()
    others = [gaps[name] for name in of_model if name in gaps and name != "min_loops"]
    untrained = pc.and_(gaps["min_loops"], reduce(pc.or_, others)) if "min_loops" in gaps and others else None
    for name, gap in gaps.items():
        wrong = gap if untrained is None or name not in of_model else pc.and_not(gap, untrained)
        if count := pc.sum(wrong).as_py():
            _refuse_gaps(name, count, len(table))


def _refuse_gaps(name: str, count: int, rows: int) -> NoReturn:
    raise ValueError(f"rows: column {name!r} must not be empty, {count} of {rows} rows are")


def _cast(given: pa.Array | pa.ChunkedArray, name: str, wanted: pa.DataType) -> pa.Array | pa.ChunkedArray:
    """The values in the wanted type where they are of its kind and none is changed: 1.0 becomes 1, 1.5 is refused."""
    try:
        if not _agrees(given.type, wanted):
            raise pa.ArrowTypeError(f"found {given.type}")
        return given.cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"rows: column {name!r} must hold {wanted}: {error}") from None


def _agrees(given: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether values of one type may stand for the other; pandas turns an integer column with gaps into floats."""
    return pa.types.is_null(given) or given == wanted or any(is_(given) and is_(wanted) for is_ in KINDS)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


KINDS = (_is_text, pa.types.is_boolean, pa.types.is_timestamp, _is_number)
