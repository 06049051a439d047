"""What stands in one results folder, as the report tells it: verdicts, pictures, models and their origin."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from eltbench import claims, results

MODEL = ("run_id", "trainer", "role", "task", "dataset", "backend", "unique_layers", "max_loops", "seed")
NARROW = ("smoke", "quick")  # presets that show the way; what they print is no result


@dataclass(frozen=True)
class Published:
    """One study's results of one preset."""

    folder: Path
    study: str
    preset: str
    claims: dict[str, dict[str, Any]]  # as claims.json has them
    commands: list[dict[str, Any]]  # as provenance.json has them
    summary: pd.DataFrame
    models: pd.DataFrame  # one line a run and role: those columns of MODEL that the study has
    rows: int
    told: dict[str, Any] = field(default_factory=dict)  # all of claims.json

    @property
    def covers(self) -> str:
        """What this study's intervals cover, where that is not what those over training seeds do."""
        said = {decided.get("intervals_cover", claims.COVERS) for decided in self.claims.values()}
        return ", ".join(sorted(said - {claims.COVERS}))

    @property
    def name(self) -> str:
        return f"{self.study}, {self.preset}"

    @property
    def anchor(self) -> str:
        """Its name as a fragment of a link."""
        return f"{self.study}-{self.preset}".replace(" ", "-")

    @property
    def figure(self) -> Path | None:
        path = self.folder / "figure.png"
        return path if path.exists() else None

    @property
    def samples(self) -> list[Path]:
        """Pictures of samples that lie beside the rows."""
        return sorted(self.folder.glob("samples*.png"))

    @property
    def failed(self) -> dict[str, str]:
        """Runs that failed and that no later command finished, with what was said of them."""
        failed: dict[str, str] = {}
        for command in self.commands:
            failed |= command.get("runs", {}).get("failed", {})
        return {run: said for run, said in failed.items() if run not in set(self.models["run_id"])}


def read(folder: Path) -> Published:
    """The results in a folder; raises ValueError naming what is missing, damaged or of another schema version."""
    rows = results.read_columns(folder / "rows.parquet", MODEL)
    models = rows.dropna(subset="run_id").drop_duplicates(ignore_index=True)
    decided, made = (_json(folder / name) for name in ("claims.json", "provenance.json"))
    try:
        about = decided["study"], decided["preset"], decided["claims"], made["commands"]
        return Published(folder, *about, pd.read_csv(folder / "summary.csv"), models, len(rows), decided)
    except (OSError, KeyError, TypeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"{folder} cannot be read: {type(error).__name__}: {error}") from None


def folders(root: Path, *, narrow: bool = False) -> Iterator[Path]:
    """Every folder below `root` that holds rows, in order; those of narrow presets only where asked for."""
    for path in sorted(root.rglob("rows.parquet")):
        if narrow or path.parent.name not in NARROW:
            yield path.parent


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
