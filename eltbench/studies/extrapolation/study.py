"""Extrapolation: what happens to quality when a model runs fewer or more loops than it was trained for?

Every elastic curve stands beside its controls: a model trained for that very depth (`dedicated`; at L_max `no-ilsd` is
that control itself) and the unique-depth model of equal compute (`equal-compute`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import pandas as pd
import pyarrow as pa

from eltbench.backends import check_exits
from eltbench.core.config import Run
from eltbench.core.streams import stream
from eltbench.core.validation import build
from eltbench.evaluation import heldout, solving, trajectory
from eltbench.evaluation.quality.samples import sample_scores
from eltbench.evidence.claims import Cell, Claim, Evidence
from eltbench.studies import curves, register
from eltbench.studies.base import Measured, Study
from eltbench.studies.extrapolation import harder
from eltbench.studies.extrapolation.claims import CLAIMS, UNASKED, At
from eltbench.studies.heldout_rows import Observation, check_least, heldout_rows, item_table
from eltbench.studies.paired import SAMPLE_SCORES, log_ratios, ratio_evidence, without_ratio
from eltbench.studies.presets import Arm, Preset, World
from eltbench.training.job import Job
from eltbench.training.loop import parts
from eltbench.training.model import Model

REACH = 3  # losses are measured up to this multiple of L_max
DIAGNOSED_ITEMS = 64
CLEANEST, NOISIEST = "noise quarter 0", "noise quarter 3"


@dataclass(frozen=True)
class Measurement(Observation):
    """What a preset's table `measurement` may say; loop counts that a model does not have are left out for it."""

    sample_loops: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12)  # where samples are scored
    diagnose_loops: tuple[int, ...] = ()  # where spectral radius and recovery are measured; none: no diagnostics
    fill_loops: tuple[int, ...] = ()  # where puzzles are also filled by the task's sampler, in several steps

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, sample_loops=1, diagnose_loops=1, fill_loops=1)


@register("extrapolation", version=1)
class Extrapolation(Study):
    """Loss at every L from 1 to 3·L_max, samples at some, and how the state moves from loop to loop."""

    columns: ClassVar = {
        "role": pa.string(),  # main, or which control
        "stratum": pa.string(),  # distance 3, noise quarter 0; empty for all together
        "reason": pa.string(),  # why a value is missing or rests on fewer items
        "sampler": pa.string(),
        "sampling_steps": pa.int64(),
        "guidance_scale": pa.float64(),
    }
    claims = CLAIMS + harder.CLAIMS
    unasked = UNASKED
    sample_pictures = True

    def cell(self, model: Mapping[str, Any]) -> tuple[Any, ...]:
        """A trainer has one main model a world, of whatever size: the claims compare trainers, not sizes."""
        names = ["trainer", "task", "dataset", "backend", "role", "seed"]
        if model["role"] != "main":
            names += ["unique_layers", "max_loops"]
        return tuple(model[name] for name in names)

    def settings(self, preset: Preset, world: World, arm: Arm) -> dict[str, Any]:
        asked = build(Measurement, {**preset.measurement, **world.measurement})
        run = preset.run(world, arm, seed=0)
        made = parts(run)
        deepest = run.architecture.max_loops
        if made.trainer.depth == "unique":
            exits = [1]
        elif arm.role == "dedicated":  # a control for one depth is asked at that depth
            exits = [deepest]
        else:
            reach = harder.REACH if made.dataset.solvable else REACH
            exits = list(check_exits(range(1, reach * deepest + 1)))
        observed = asked.settings(run, made)  # refuses unknown options before any training
        sample_loops = [loops for loops in asked.sample_loops if loops in exits]
        if asked.samples and not sample_loops:
            if len(exits) > 1:
                raise ValueError(f"measurement: none of sample_loops {asked.sample_loops} is among the exits {exits}")
            sample_loops = exits  # a control has one depth
        puzzles = {}
        if made.dataset.solvable:
            puzzles = {"solving": True, "fill_loops": [loops for loops in asked.fill_loops if loops in exits]}
        return {
            **observed,
            "exits": exits,
            "sample_loops": sample_loops if asked.samples else [],
            "diagnose_loops": [loops for loops in asked.diagnose_loops if loops in exits and len(exits) > 1],
            **puzzles,
        }

    def measure(self, model: Model, run: Run, settings: Mapping[str, Any]) -> Measured:
        losses = heldout.evaluate(model, settings["exits"], settings["heldout_draws"])
        measured = Measured(heldout_rows(losses, run.architecture), {"items": item_table(losses)})
        measured = measured.with_part(SAMPLE_SCORES, lambda: sample_scores(model, settings))
        if settings.get("solving"):
            how = settings["exits"], settings["fill_loops"], settings["sampling"]
            measured = measured.with_part("solved", lambda: solving.rows(model, *how))
        if settings["diagnose_loops"]:
            measured = measured.with_part("diagnostics", lambda: _diagnostics(model, settings))
        return measured

    def open_questions(self, jobs: Sequence[Job]) -> dict[str, str]:
        sizes = [(job.run.trainer, job.run.architecture.max_loops) for job in jobs if job.keys["role"] == "main"]
        found = {claim.id: _between_loops(claim, sizes).values() for claim in CLAIMS}
        return {claim: "; ".join(dict.fromkeys(reasons)) for claim, reasons in found.items() if reasons}

    def evidence(self, rows: pd.DataFrame) -> dict[str, dict[Cell, Evidence]]:
        found: dict[str, dict[Cell, Evidence]] = {claim.id: {} for claim in self.claims}
        for where, cell in self.cells(rows):
            for claim, shown in harder.evidence(cell):
                found[claim.id][where] = shown
            main = cell[cell["role"] == "main"]
            for claim in CLAIMS:
                named = {side.trainer for condition in claim.conditions for side in condition.compares}
                if named and named <= set(main["trainer"]):
                    seeds = set(main[main["trainer"].isin(named)]["seed"])
                    shown = ratio_evidence(main, seeds, claim.conditions, partial(_at, main))
                    sizes = main[["trainer", "max_loops"]].drop_duplicates().itertuples(index=False, name=None)
                    without = {**shown.without, **_between_loops(claim, sizes)}
                    found[claim.id][where] = replace(shown, without=without)
            norms = main[(main["trainer"] == "elt") & (main["metric"] == "late_update_norm")]
            if len(norms):
                sides = [norms[norms["stratum"] == quarter] for quarter in (NOISIEST, CLEANEST)]
                effect = log_ratios(*sides)
                absent = {"late-loops": sorted(set(main[main["trainer"] == "elt"]["seed"]) - set(effect.index))}
                without = {"late-loops": said} if (said := without_ratio(*sides)) else {}
                found["update-norms"][where] = Evidence({"late-loops": effect.to_numpy()}, None, absent, without)
        return found

    def summarise(self, rows: pd.DataFrame) -> pd.DataFrame:
        return curves.summary(rows, further=curves.compared(rows))

    def figure(self, rows: pd.DataFrame):
        return curves.figure(rows)


def _diagnostics(model: Model, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Convergence diagnostics at the exits on a few held-out items, and the update norms by quarter of denoising."""
    clean = model.dataset.heldout().select(slice(DIAGNOSED_ITEMS))
    (batch,) = model.task.heldout(clean, model.spec, stream(model.run.dataset, 0, "diagnosis"), 1)
    rows = trajectory.diagnose(model, batch, settings["exits"], stability_exits=settings["diagnose_loops"])
    quarters = trajectory.update_norms_by_noise(model, model.dataset.heldout())
    rows += [{**row, "stratum": f"noise quarter {row['stratum']}"} for row in quarters]
    return [{**row, "split": "heldout"} for row in rows]


def _at(rows: pd.DataFrame, metric: str, side: At) -> pd.DataFrame:
    """Seeds and values of one trainer's metric at a multiple of its L_max."""
    here = (rows["trainer"] == side.trainer) & (rows["metric"] == metric) & rows["stratum"].isna()
    return rows.loc[here & (rows["loops"] == side.multiple * rows["max_loops"]), ["seed", "value"]]


def _between_loops(claim: Claim, sizes: Iterable[tuple[str, int]]) -> dict[str, str]:
    """The conditions that ask a model for a loop count which is no whole number, in words; sizes: (trainer, L_max)."""
    found = {}
    for trainer, max_loops in sizes:
        for condition in claim.conditions:
            for side in condition.compares:
                if side.trainer == trainer and side.multiple * max_loops % 1:
                    found[condition.name] = (
                        f"{side.multiple:g} times the L_max = {max_loops} of {trainer} is no loop count; an even "
                        "max_loops can be asked"
                    )
    return found
