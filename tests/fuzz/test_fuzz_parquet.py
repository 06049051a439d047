"""Tables of strangers: rows are read whole and in their form, or refused with ValueError."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from judging import bounded, drawn, tried, watched
from mutations import damaged
from start import PUBLISHED

from eltbench import load_rows
from eltbench.cli import compare as comparison
from eltbench.evidence.schema import COLUMNS, VERSION_KEY
from eltbench.studies import deciding
from eltbench.studies.throughput import recommend as recommending

GRID = PUBLISHED.parents[1] / "depth_grid" / "relay"


def table(folder: Path = PUBLISHED) -> pa.Table:
    return pq.read_table(folder / "rows.parquet")


def replaced(rows: pa.Table, name: str, values: pa.Array, rename: str | None = None) -> pa.Table:
    place = rows.column_names.index(name)
    return rows.set_column(place, rename or name, values).replace_schema_metadata(rows.schema.metadata)


def changed(rows: pa.Table, name: str, value: object) -> pa.Table:
    """One value in the first row, of the type that the column has."""
    kind = rows.schema.field(name).type
    return replaced(rows, name, pa.array([value, *rows.column(name).to_pylist()[1:]], kind))


def retyped(rows: pa.Table, name: str) -> pa.Table:
    """The column as text where it holds numbers, else as numbers."""
    text = pa.types.is_string(rows.schema.field(name).type)
    return replaced(rows, name, pa.array(range(len(rows))) if text else pa.array(["x"] * len(rows)))


FORBIDDEN = {
    **{f"without {name}": lambda rows, name=name: rows.drop_columns([name]) for name in COLUMNS},
    **{f"{name} of another type": lambda rows, name=name: retyped(rows, name) for name in COLUMNS},
    **{
        f"{name} under another name": lambda rows, name=name: rows.rename_columns(
            [f"{each} " if each == name else each for each in rows.column_names]
        )
        for name in COLUMNS
    },
    **{
        f"a gap in {name}": lambda rows, name=name: changed(rows, name, None)
        for name, column in COLUMNS.items()
        if not column.nullable
    },
    "a column twice": lambda rows: rows.append_column("metric", rows.column("metric")),
    "a list in a column": lambda rows: replaced(rows, "value", pa.array([[1.0]] * len(rows))),
    "another schema version": lambda rows: rows.replace_schema_metadata({VERSION_KEY: b"0"}),
    "no schema version": lambda rows: rows.replace_schema_metadata({}),
    "loops below 0": lambda rows: changed(rows, "loops", -1),
    "seed below 0": lambda rows: changed(rows, "seed", -1),
    "unique_layers 0": lambda rows: changed(rows, "unique_layers", 0),
    "an escape in a name": lambda rows: changed(rows, "trainer", "elt\x1b[2J"),
}


def write(folder: Path, rows: pa.Table) -> Path:
    pq.write_table(rows, folder / "rows.parquet")
    return folder / "rows.parquet"


@pytest.mark.slow
@pytest.mark.parametrize("label", FORBIDDEN)
def test_what_the_schema_forbids_is_refused(place, label):
    write(place, FORBIDDEN[label](table()))
    with watched(place), bounded(), pytest.raises(ValueError):  # noqa: PT011
        load_rows(place / "rows.parquet")


@pytest.mark.parametrize("size", [10**6, 10**9, 2**31 - 1])
def test_loops_that_no_network_runs_are_not_timed(place, monkeypatch, size):
    rows = table(GRID)
    for name in ("claims.json", "provenance.json", "summary.csv"):
        (place / name).write_bytes((GRID / name).read_bytes())
    write(place, replaced(rows, "loops", pa.array([size] * len(rows), rows.schema.field("loops").type)))

    def timed() -> None:
        found = load_rows(place)
        recommending.candidates(place / "rows.parquet", found, recommending.worlds(found)[0])

    with watched(place), bounded(), pytest.raises(ValueError):  # noqa: PT011
        timed()


def shaken(rows: pa.Table, random) -> pa.Table:
    """A table with an odd value, column, order or number of rows."""
    name = random.choice(rows.column_names)
    kind = rows.schema.field(name).type
    match random.randrange(8):
        case 0:
            return rows.drop_columns([name])
        case 1:
            return retyped(rows, name)
        case 2:
            return rows.slice(0, random.choice((0, 1, 2)))
        case 3:
            return rows.append_column(random.choice(("x", "metric", "world", "")), pa.array(range(len(rows))))
        case 4:
            return replaced(rows, name, pa.nulls(len(rows), kind))
        case 5:
            return pa.concat_tables([rows, rows])
        case 6:
            return replaced(rows, name, pa.array([{"a": [1]}] * len(rows)))
    odd = {
        "double": (math.nan, math.inf, -math.inf, -1.0, 0.0, 1e308),
        "string": ("", "\x1b[2J", "../../x", "http.server:test", "a" * 1000, "💥"),
        "bool": (True, False),
    }.get(str(kind), (0, -1, 1, 2**31 - 1))
    return changed(rows, name, random.choice(odd)) if not pa.types.is_timestamp(kind) else rows


def read(place: Path, original: Path) -> None:
    """All that reads a stranger's table without timing anything."""
    rows = load_rows(place)
    deciding.read_folder(place)
    comparison.table(comparison.compare(original, place))
    for world in recommending.worlds(rows):
        recommending.quality(rows, world)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["table", "bytes"])
def test_any_table_is_read_or_refused(published, place, kind):
    original, rows, content = PUBLISHED, table(), (PUBLISHED / "rows.parquet").read_bytes()

    def cases():
        for name, random in drawn(kind, 25):
            if kind == "table":
                write(published, shaken(rows, random))
            else:
                (published / "rows.parquet").write_bytes(damaged(content, random))
            yield name, lambda: read(published, original)

    tried(cases(), place)
