"""Results of several machines in one folder: rows merged, and claims, summary and figure made anew from all of them.

Rows that two origins share must agree, or nothing is merged. Wall-clock times never agree: of rows whose metric ends in
`seconds`, and of rows that differ only in where and when they were measured, the earliest is kept.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from eltbench import studies
from eltbench.core import atomic
from eltbench.evidence import results
from eltbench.evidence.merging import check_repeated
from eltbench.evidence.publishing import lock, read_commands
from eltbench.studies import recipes
from eltbench.studies.base import Study
from eltbench.studies.deciding import publish
from eltbench.studies.presets import preset_from_dict, presets_of

PUBLISHED = re.compile(r"(rows\.parquet|summary\.csv|claims\.json|provenance\.json|figure\.(png|pdf))")
"""What publishing makes of rows."""
COPIED = re.compile(rf"{PUBLISHED.pattern}|timings\.parquet|(samples|puzzles)-[\w.+-]+\.(png|gif)")
"""All that the package writes into a folder of results."""
MADE = ("time", "host", "package_version", "git_commit", "git_dirty", "libraries")
"""Columns that say where and when a row was measured."""
DERIVED = ("n_samples", "params", "weight_bytes", "macs", "flops", "effective_depth", "compiled", "higher_is_better")
"""Columns beside the value that follow from what a row is of, so that none of them names it."""
SHOWN = ("trainer", "role", "task", "dataset", "seed", "loops", "metric")
ORIGIN = "_origin"


class ContradictionError(ValueError):
    """Two origins hold other values of one thing."""


@dataclass(frozen=True)
class Folder:
    """One study's results of one preset, as several origins have them; all that is merged is held in memory."""

    path: Path  # below each origin, and below the folder that is written
    origins: Sequence[Path]
    study: Study
    rows: pd.DataFrame
    commands: list[dict[str, Any]]  # of all origins, in the order of time

    @property
    def clocks(self) -> list[str]:
        """Machines whose wall-clocks stand in the rows."""
        return sorted(self.rows[self.rows["metric"].str.endswith("seconds")]["host"].unique())


def read_folders(origins: Sequence[Path], into: Path) -> list[Folder]:
    """The merged folders of all origins, with `into` among them if it holds rows; writes nothing.

    A merge that did not end is continued. Raises ContradictionError, naming both origins, for other values of one row
    and for two versions of one model; ValueError for damage, another schema version, or another unfinished merge.
    """
    check_repeated(origins, into)
    target = into.resolve()
    roots = [path for path in origins if path.resolve() != target]
    found: dict[Path, list[Path]] = {}
    for root in [*roots, *([into] if into.is_dir() else [])]:
        for file in sorted(root.rglob("rows.parquet")):
            if atomic.is_file(file):
                found.setdefault(file.parent.relative_to(root), []).append(root)
    return [_read(path, its, into) for path, its in sorted(found.items())]


def write_folder(folder: Folder, into: Path) -> None:
    """Write the merged folder; pictures of samples are copied from the first origin that has them.

    Of the origins only files that the package writes are copied, and rows come last: a folder that holds them is whole.
    """
    target = into / folder.path
    if not target.resolve().is_relative_to(into.resolve()):
        raise ValueError(f"{target} is, or is below, a link out of {into}, which is not followed; remove it")
    atomic.check_writable(target)
    with lock(target):  # another command may publish here
        anew = len(folder.origins) > 1 and _of_runs(folder.study)
        for origin in folder.origins:
            here = (origin / folder.path).iterdir()
            for path in sorted(here, key=lambda path: (path.name == "rows.parquet", path.name)):
                copied = COPIED.fullmatch(path.name) and not (anew and PUBLISHED.fullmatch(path.name))
                if copied and atomic.is_file(path) and not (target / path.name).exists():
                    atomic.bring(path, target / path.name)
        if anew:
            preset = preset_from_dict(folder.commands[-1]["presets"][0])
            publish(target, folder.study, preset.name, folder.rows, folder.commands, smoke=preset.smoke)
        elif len(folder.origins) > 1:
            atomic.write_json(target / "provenance.json", {"commands": folder.commands}, indent=1)


def _read(path: Path, origins: Sequence[Path], into: Path) -> Folder:
    tables = {
        str(origin / path): results.read_published(origin / path / "rows.parquet", merging=origin == into)
        for origin in origins
    }
    names = {name for table in tables.values() for name in table.column("study").unique().to_pylist()}
    if len(names) != 1:
        raise ValueError(f"{path} holds rows of the studies {sorted(names)} in {' and '.join(tables)}: keep them apart")
    study = studies.create(names.pop())
    rows = merged_rows(tables) if len(tables) > 1 else next(iter(tables.values())).to_pandas()
    of_origins = {origin: read_commands(origin / path / "provenance.json") for origin in origins}
    if _of_runs(study):
        _refuse_versions(study, tables)
        _refuse_recipes(study, path, of_origins)
    commands: list[dict[str, Any]] = []
    for entry in itertools.chain.from_iterable(of_origins.values()):
        plain = {name: value for name, value in entry.items() if name != results.CHECKSUM}  # of its own folder's rows
        commands += [plain] if plain not in commands else []
    commands.sort(key=lambda entry: str(entry.get("time")))
    return Folder(path, origins, study, rows, commands)


def _of_runs(study: Study) -> bool:
    """Whether its rows are of trained runs; the folders of other studies stay whole."""
    return study.trained and bool(study.claims)


def _refuse_versions(study: Study, tables: Mapping[str, pa.Table]) -> None:
    """Raise where two origins have one model in two versions, which no row could tell apart."""
    known: dict[tuple[Any, ...], tuple[tuple[str, str], str]] = {}
    columns = ["run_id", "measurement", *results.CELL, "role", "world"]
    for origin, table in tables.items():
        models = table.select([name for name in columns if name in table.column_names])
        for model in models.group_by(models.column_names).aggregate([]).to_pylist():
            version = model["run_id"], model["measurement"]
            other, where = known.setdefault(study.cell(model), (version, origin))
            if other != version:
                said = ", ".join(f"{name} {value}" for name, value in model.items() if name not in columns[:2])
                raise ContradictionError(
                    f"two versions of one model ({said}): run {other[0]}, measurement {other[1]} in {where}; run "
                    f"{version[0]}, measurement {version[1]} in {origin}. Leave one of them out"
                )


def _refuse_recipes(study: Study, path: Path, of_origins: Mapping[Path, Sequence[dict[str, Any]]]) -> None:
    """Raise where two origins trained or measured one world in two ways, so that no claim may compare their models."""
    known = {origin: presets_of(commands) for origin, commands in of_origins.items()}
    for first, second in itertools.combinations(known, 2):
        if found := recipes.differences(study, known[first], known[second]):
            told = "; ".join(each.told(str(first), str(second)) for each in found if each.where == found[0].where)
            raise ContradictionError(
                f"{path}: the models of {found[0].where} were trained or measured in two ways: {told}. Models that a "
                "claim compares may differ in trainer, arm and seed alone; compare the folders (eltbench compare)"
            )


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
