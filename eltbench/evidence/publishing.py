"""A study's folder of results: every file written whole, and read back with plain words for what is odd."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from filelock import FileLock

from eltbench.core import atomic
from eltbench.core.atomic import replacing, write_json, write_text
from eltbench.evidence import results
from eltbench.evidence.question import Question


def lock(folder: Path) -> FileLock:
    """The lock under which commands take turns to publish in a folder, wherever they keep their temporary files."""
    return FileLock(folder / ".lock")


def write(
    folder: Path,
    study: Question,
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
