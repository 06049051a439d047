"""What stands in one results folder, as the report tells it: verdicts, pictures, models and their origin."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from eltbench.evidence import claims

MODEL = ("run_id", "trainer", "role", "task", "dataset", "backend", "unique_layers", "max_loops", "seed")
NARROW = ("smoke", "quick")  # presets that show the way; what they print is no result


@dataclass(frozen=True)
class Published:
    """One study's results of one preset."""

    folder: Path
    study: str
    preset: str
    claims: dict[str, dict[str, Any]]  # as in claims.json
    commands: list[dict[str, Any]]  # as provenance.json has them
    summary: pd.DataFrame
    models: pd.DataFrame  # one line a run and role: those columns of MODEL that the study has
    rows: int
    told: dict[str, Any] = field(default_factory=dict)  # all of claims.json, decided anew
    notes: tuple[str, ...] = ()  # of files that do not agree

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
        """Pictures of samples, and of answers to puzzles, that lie beside the rows."""
        return sorted([*self.folder.glob("samples*.png"), *self.folder.glob("puzzles*.png")])

    @property
    def failed(self) -> dict[str, str]:
        """Runs that failed and that no later command finished, with what was said of them."""
        failed: dict[str, str] = {}
        for command in self.commands:
            failed |= command.get("runs", {}).get("failed", {})
        return {run: said for run, said in failed.items() if run not in set(self.models["run_id"])}


def folders(root: Path, *, narrow: bool = False) -> Iterator[Path]:
    """Every folder below `root` that holds rows, in order; those of narrow presets only where asked for."""
    for path in sorted(root.rglob("rows.parquet")):
        if narrow or path.parent.name not in NARROW:
            yield path.parent
