"""Throughput: what does sharing weights buy in speed and memory on this machine, and why?

Nothing is trained to its end: networks with random weights are timed in fresh processes, beside ceilings measured in
the same run (eltbench.evaluation.speed.roofline). Times hold for this machine as it was then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd

from eltbench.core.config import Run
from eltbench.evidence.claims import Cell, Claim, Decision, Evidence
from eltbench.studies import deciding, register
from eltbench.studies.base import Measured, Study
from eltbench.studies.presets import Arm, Preset, World
from eltbench.studies.throughput import evidence, figure, sentences, summary, tables
from eltbench.studies.throughput.claims import CLAIMS
from eltbench.studies.throughput.rows import COLUMNS
from eltbench.training.job import Job
from eltbench.training.model import Model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COVERS = "fresh processes on this machine, one after the other, in one run"


@register("throughput", version=1)
class Throughput(Study):
    """Looped against unique-depth networks of equal depth, their training steps and memory, and blocks of others."""

    columns: ClassVar = COLUMNS
    trained: ClassVar = False
    claims = CLAIMS
    covers = COVERS

    def main(self, arguments: Sequence[str] | None) -> int:
        from eltbench.studies.throughput.command import main

        return main(self, arguments)

    def plan(self, preset: Preset) -> list[Job]:
        return []

    def settings(self, preset: Preset, world: World, arm: Arm) -> dict[str, Any]:
        raise ValueError(f"study {self.name!r} trains no model; its presets declare cells")

    def measure(self, model: Model, run: Run, settings: Mapping[str, Any]) -> Measured:
        raise ValueError(f"study {self.name!r} measures no trained model")

    def summarise(self, rows: pd.DataFrame) -> pd.DataFrame:
        return summary.summary(rows)

    def figure(self, rows: pd.DataFrame) -> Figure:
        return figure.figure(rows)

    def evidence(self, rows: pd.DataFrame) -> dict[str, dict[Cell, Evidence]]:
        return {**evidence.evidence(rows), "operating-point": {}}

    def remarks(self, rows: pd.DataFrame) -> list[str]:
        return sentences.sentences(rows)

    def told(self, rows: pd.DataFrame) -> dict[str, Any]:
        left_out = summary.left_out(self.summarise(rows)).to_dict("records")
        return {"machine": tables.machine(rows), "sentences": self.remarks(rows), "left_out": left_out}

    def decide(self, rows: pd.DataFrame, *, smoke: bool) -> list[Decision]:
        """One decision a claim; operating-point is inconclusive by itself (`eltbench recommend` answers it locally)."""
        return deciding.decide_all(self, rows, presets=None, smoke=smoke)

    def why_nothing(self, rows: pd.DataFrame, claim: Claim) -> str:
        return evidence.why_nothing(rows, claim.id)
