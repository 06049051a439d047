"""A study's folder of results: written from its rows, and read back with verdicts that are decided from them anew."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from filelock import FileLock

from eltbench import studies
from eltbench.core import atomic
from eltbench.core.atomic import replacing, write_json, write_text
from eltbench.evidence import claims, results, verdicts
from eltbench.evidence.schema import row_schema
from eltbench.studies.base import Study
from eltbench.studies.presets import Preset, presets_of

MOST_ROWS = 500_000  # that are decided anew when a folder is read: ten seconds and half a GiB


def lock(folder: Path) -> FileLock:
    """The lock under which commands take turns to publish in a folder, wherever they keep their temporary files."""
    return FileLock(folder / ".lock")


def publish(
    folder: Path, study: Study, preset: Preset, rows: pd.DataFrame, commands: list[dict[str, Any]]
) -> list[claims.Decision]:
    """Decide a study's claims and `write` everything into its folder."""
    decisions = verdicts.decide_all(study, rows, presets=presets_of(commands), smoke=preset.smoke)
    content = verdicts.content(study, preset.name, decisions, rows)
    write(folder, study, rows, row_schema(study.columns), content, commands)
    return decisions


def write(
    folder: Path,
    study: Study,
    rows: pd.DataFrame,
    schema: pa.Schema,
    content: dict[str, Any],
    commands: Sequence[dict[str, Any]],
) -> None:
    """Rows, summary, figure, claims and provenance into the study's folder, each file whole; rows come last.

    All that is derived from the rows is made before they replace the published ones, and the provenance holds their
    checksum, so that files of two states are noticed. content: of claims.json.
    """
    from eltbench.evidence import figures

    with replacing(folder / "rows.parquet") as temporary:
        results.write_rows(temporary, rows, schema)
        with replacing(folder / "summary.csv") as summary:
            study.summarise(rows).to_csv(summary, index=False, float_format="%.6g")
        with figures.plain():
            figures.save(study.figure(rows), folder / "figure")
        write_text(folder / "claims.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
        *earlier, last = ({key: it for key, it in each.items() if key != results.CHECKSUM} for each in commands)
        made = [*earlier, {**last, results.CHECKSUM: results.checksum(temporary)}]
        write_json(folder / "provenance.json", {"commands": made}, indent=1)


@dataclass(frozen=True)
class Retold:
    """A folder of results as its rows have it, and what is to be said of files that have it otherwise."""

    content: dict[str, Any]  # of claims.json
    rows: pd.DataFrame  # all columns, or those of `models` where they are too many
    notes: tuple[str, ...]
    summary: pd.DataFrame | None = None  # of a study without claims, whose verdicts stand there


def retell(
    folder: Path, commands: Sequence[dict[str, Any]], models: Sequence[str] = (), most: float = MOST_ROWS
) -> Retold:
    """Read a folder and decide its claims anew where its study is known here.

    commands: of its provenance.json. models: the columns that are read of more rows than `most`, which are not decided
    anew. Raises ValueError for rows and claims that cannot be read or decided.
    """
    path, notes = folder / "rows.parquet", []
    if said := results.of_two_states(path):
        notes.append(said)
    found = read_json(folder / "claims.json")
    if not isinstance(found, dict) or not isinstance(found.get("claims"), dict):
        raise ValueError(f"{folder / 'claims.json'} cannot be read: it holds no claims")
    if (count := results.count(path)) > most:
        notes.append(
            f"its {count} rows were not decided anew, since they are more than {most}: verdicts are those of "
            "claims.json"
        )
        return Retold(found, results.read_columns(path, models), tuple(notes))
    rows = results.read_published(path).to_pandas()
    names, presets = (sorted(rows[name].unique()) for name in ("study", "preset"))
    if len(names) != 1:
        raise ValueError(f"{path} holds rows of the studies {names}: keep them apart")
    if names[0] not in studies.names():
        notes.append(f"study {names[0]!r} is not registered here: verdicts are those of claims.json, not decided anew")
        return Retold(found, rows, tuple(notes))
    study = studies.create(names[0])
    name = presets[0] if len(presets) == 1 else str(found.get("preset"))
    try:
        results.read_published(path, study.columns)
        decisions = (
            verdicts.decide_all(study, rows, presets=presets_of(commands), smoke=_smoke(commands))
            if study.claims
            else []
        )
        content = json.loads(json.dumps(verdicts.content(study, name, decisions, rows)))
    except Exception as error:  # rows may fit the schema and yet be of no models that the study can compare
        raise ValueError(f"{path} gives no verdicts: {type(error).__name__}: {error}") from error
    if content != found:
        notes.append("claims.json does not follow from the rows; what is shown was decided from the rows anew")
    return Retold(content, rows, tuple(notes), None if study.claims else study.summarise(rows))


def _smoke(commands: Sequence[dict[str, Any]]) -> bool:
    """Whether the last command's preset was one that judges nothing."""
    return any(preset.get("smoke") is True for command in commands[-1:] for preset in command["presets"][:1])


def read_commands(path: Path) -> list[dict[str, Any]]:
    """The commands that a provenance.json names, each with its presets and runs; ValueError for anything else."""
    found = read_json(path)
    commands = found.get("commands") if isinstance(found, dict) else None
    if not isinstance(commands, list) or not all(map(_is_command, commands)):
        raise ValueError(f"{path} cannot be read: it holds no list of commands")
    return commands


def _is_command(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(runs := entry.get("runs"), dict):
        return False
    presets = entry.setdefault("presets", [])
    listed = isinstance(presets, list) and all(isinstance(preset, dict) for preset in presets)
    return listed and all(isinstance(runs.setdefault(name, []), list) for name in ("done", "cached"))


def read_json(path: Path) -> Any:
    """The content of a JSON file; raises ValueError, with its path, for what cannot be read."""
    try:
        return atomic.read_json(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
