"""Results of several machines in one folder: rows merged, and claims, summary and figure made anew from all of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from eltbench import atomic, results, studies
from eltbench.merging import ContradictionError, merged_rows
from eltbench.studies.base import Study
from eltbench.studies.presets import preset_from_dict
from eltbench.studies.publishing import publish


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
    """What the origins' folders of results come to, `into` among them where it holds rows; writes nothing.

    Raises ContradictionError, which names both origins, for other values of one row and for two versions of one model;
    ValueError for what is damaged or of another schema version.
    """
    roots = [*origins, *([into] if into.is_dir() and into not in origins else [])]
    found: dict[Path, list[Path]] = {}
    for root in roots:
        for file in sorted(root.rglob("rows.parquet")):
            found.setdefault(file.parent.relative_to(root), []).append(root)
    return [_read(path, its) for path, its in sorted(found.items())]


def write_folder(folder: Folder, into: Path) -> None:
    """The merged folder; what no study makes (pictures of samples) is that of the first origin that has it."""
    target = into / folder.path
    atomic.check_writable(target)
    for origin in folder.origins:
        for path in sorted((origin / folder.path).iterdir()):
            if path.is_file() and not (target / path.name).exists():
                with atomic.replacing(target / path.name) as temporary:
                    shutil.copy2(path, temporary)
    if len(folder.origins) == 1:
        return
    if _of_runs(folder.study):
        preset = preset_from_dict(folder.commands[-1]["presets"][0])
        publish(target, folder.study, preset, folder.rows, folder.commands)
    else:
        atomic.write_json(target / "provenance.json", {"commands": folder.commands}, indent=1)


def _read(path: Path, origins: Sequence[Path]) -> Folder:
    tables = {str(origin / path): results.read_table(origin / path / "rows.parquet") for origin in origins}
    names = {name for table in tables.values() for name in table.column("study").unique().to_pylist()}
    if len(names) != 1:
        raise ValueError(f"{path} holds rows of the studies {sorted(names)} in {' and '.join(tables)}: keep them apart")
    study = studies.create(names.pop())
    rows = merged_rows(tables) if len(tables) > 1 else next(iter(tables.values())).to_pandas()
    if _of_runs(study):
        _refuse_versions(study, tables)
    commands = sorted(_commands([origin / path for origin in origins]), key=lambda entry: str(entry.get("time")))
    return Folder(path, origins, study, rows, commands)


def _of_runs(study: Study) -> bool:
    """Whether its rows are of trained runs; other studies have a command of their own, and their folders stay whole."""
    return type(study).main is Study.main and bool(study.claims)


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


def _commands(folders: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """The commands behind the rows of all folders, each once."""
    seen = []
    for folder in folders:
        path = folder / "provenance.json"
        try:
            commands = json.loads(path.read_text(encoding="utf-8"))["commands"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} cannot be read: {error}; rows are merged with where they come from") from None
        for entry in commands:
            if entry not in seen:
                seen.append(entry)
                yield entry
