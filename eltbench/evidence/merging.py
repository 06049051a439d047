"""Rows of several machines under one another: each measurement of each run once, and nothing that contradicts another.

What two origins both have must be the same, or nothing is merged. A wall-clock is never the same twice: of rows whose
metric ends in `seconds`, and of rows that differ only in where and when they were made, the one that was measured first
stands, whatever the order of the origins.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pyarrow as pa

from eltbench.core import atomic
from eltbench.core.validation import printable

MADE = ("time", "host", "package_version", "git_commit", "git_dirty", "libraries")
"""Columns that say where and when a row was measured."""

DERIVED = ("n_samples", "params", "weight_bytes", "macs", "flops", "effective_depth", "compiled", "higher_is_better")
"""Columns beside the value that follow from what a row is of, so that none of them names it."""

SHOWN = ("trainer", "role", "task", "dataset", "seed", "loops", "metric")
ORIGIN = "_origin"
MARKER = "merging.json"  # stands in the target of a merge of results until all of it is written
DEEPEST = 3  # folders above one with rows in which the marker is looked for: results/STUDY/PRESET


class ContradictionError(ValueError):
    """Two origins hold other values of one thing."""


@contextmanager
def announced(origins: Sequence[Path], into: Path) -> Iterator[None]:
    """Say in the target that a merge writes there; what is said goes when all is written, and stays where it is not."""
    said = {"origins": [str(path.resolve()) for path in origins], "into": str(into.resolve())}
    atomic.write_text(into / MARKER, json.dumps(said, indent=1) + "\n")
    yield
    (into / MARKER).unlink()


def refuse_interrupted(folder: Path) -> None:
    """Raise ValueError, saying how to go on, for a folder in or below one where a merge was begun and did not end."""
    folder = folder.absolute()
    for place in (folder, *folder.parents[:DEEPEST]):
        if (place / MARKER).exists():
            raise ValueError(
                f"a merge into {place} has not ended, so that some of it may be missing; wait where it is at work, "
                f"else repeat it: {_command(place)}"
            )


def check_repeated(origins: Sequence[Path], into: Path) -> None:
    """Raise ValueError where another merge into the target did not end, which this one would not go on with."""
    if (into / MARKER).exists() and not _origins(into) <= {str(path.resolve()) for path in origins}:
        raise ValueError(
            f"a merge of other folders into {into} did not end; repeat it first: {_command(into)}; or remove "
            f"{into / MARKER} to leave out what they have"
        )


def _origins(into: Path) -> set[str]:
    """The origins of the merge that did not end; ValueError where its marker does not say them."""
    try:
        return {str(path) for path in atomic.read_json(into / MARKER)["origins"]}
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{into / MARKER} does not say what was merged; merge into another folder") from None


def _command(into: Path) -> str:
    return printable(shlex.join(["eltbench", "merge", *sorted(_origins(into)), "--into", str(into)]))


def merged_rows(tables: Mapping[str, pa.Table]) -> pd.DataFrame:
    """The rows of all origins, which name the tables.

    A row is named by all its columns but the numbers (those of floating point, and DERIVED) and MADE. Raises
    ContradictionError where two origins have other numbers under one name, wall-clocks excepted.
    """
    floats = {field.name for table in tables.values() for field in table.schema if pa.types.is_floating(field.type)}
    both = pd.concat([table.to_pandas().assign(**{ORIGIN: origin}) for origin, table in tables.items()])
    both = both.reset_index(drop=True)
    numbers = [str(name) for name in both if name in floats or name in DERIVED]
    names = [str(name) for name in both if name not in (*numbers, *MADE, ORIGIN)]
    both["_name"] = pd.util.hash_pandas_object(both[names], index=False)
    both["_whole"] = pd.util.hash_pandas_object(both[names + numbers], index=False)
    in_time = both.sort_values(["time", "host", ORIGIN], kind="stable")
    timed = in_time["metric"].str.endswith("seconds")
    clocks, values = in_time[timed].drop_duplicates("_name"), in_time[~timed]
    kept = values.drop_duplicates("_whole")
    _refuse_contradictions(values, kept, names)
    return pd.concat([kept, clocks]).sort_index().drop(columns=[ORIGIN, "_name", "_whole"]).reset_index(drop=True)


def _refuse_contradictions(values: pd.DataFrame, kept: pd.DataFrame, names: Sequence[str]) -> None:
    """Raise where an origin that has rows of a name lacks some that another origin has under it."""
    here = values.drop_duplicates(["_whole", ORIGIN]).groupby(["_name", ORIGIN]).size()
    everywhere = kept.groupby("_name").size().reindex(here.index.get_level_values("_name")).to_numpy()
    lacking = here[here.to_numpy() < everywhere].index.get_level_values("_name").unique()
    if lacking.empty:
        return
    one = values[values["_name"] == lacking[0]].drop_duplicates(ORIGIN)
    first = one.iloc[0]
    what = " ".join(f"{name} {first[name]}" for name in SHOWN if name in names and pd.notna(first[name]))
    said = [f"{row[ORIGIN]} has {row['value']!r} ({row['host']}, {row['time']})" for _, row in one.iterrows()]
    raise ContradictionError(
        f"{len(lacking)} rows contradict one another, for example of run {first['run_id']}, {what}: {'; '.join(said)}. "
        "Machines that do not compute the same bits can be compared (eltbench compare), not merged"
    )
