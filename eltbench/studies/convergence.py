"""Convergence: how many training steps, samples and FLOPs does a looped model need to be as good as unique layers?

Every curve comes from the checkpoints of one run: averaged weights at a constant learning rate, since checkpoints under
a decaying rate are not comparable. One thing a checkpoint cannot undo: λ of `elt` decays towards the end of the whole
run, so an early checkpoint is one of a training that was planned to be longer.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd
import pyarrow as pa

from eltbench.claims import Cell, Evidence
from eltbench.config import Run
from eltbench.estimate import training_flops
from eltbench.evaluation import heldout
from eltbench.evaluation.features import full_name
from eltbench.evaluation.samples import sample_scores
from eltbench.fields import build
from eltbench.model import Model
from eltbench.studies import register, targets, training_curves, variants
from eltbench.studies.base import Measured, Study
from eltbench.studies.presets import Arm, Preset, World
from eltbench.studies.variants import VARIANTS
from eltbench.training import parts

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Measurement:
    """What a preset's table `measurement` may say."""

    heldout_draws: int = 2  # corruptions of every held-out item, the same at every checkpoint
    samples: int = 0  # how many are drawn of elt and its variants at the end, at L_max/2 and L_max; 0: none
    sampling: Mapping[str, Any] = field(default_factory=dict)  # options of the task's sampler
    feature_extractors: tuple[str, ...] = ("digits-conv",)  # the first is the second witness's

    def __post_init__(self) -> None:
        if self.heldout_draws < 1:
            raise ValueError(f"measurement: heldout_draws must be at least 1, given {self.heldout_draws}")
        if self.samples < 0 or 0 < self.samples < 5:  # precision and recall need that many
            raise ValueError(f"measurement: samples must be 0 or at least 5, given {self.samples}")


@register("convergence", version=1)
class Convergence(Study):
    """Held-out loss at L_max/2 and L_max at every snapshot of a run, and at its end."""

    columns: ClassVar = {
        "role": pa.string(),  # main, which control, or which variant of elt
        "training_step": pa.int64(),  # steps trained when the weights were as measured
        "training_samples": pa.int64(),  # training_step times the batch size
        "training_flops": pa.float64(),  # of all steps until then, forward and backward
        "reason": pa.string(),  # why a value is missing
        "sampler": pa.string(),
        "sampling_steps": pa.int64(),
        "guidance_scale": pa.float64(),
    }
    claims = ("convergence", "lambda-insensitive")

    def cell(self, model: Mapping[str, Any]) -> tuple[Any, ...]:
        """A trainer has one main model a world and one of each variant; a further size has a role of its own."""
        names = ["trainer", "task", "dataset", "backend", "role", "seed"]
        if model["role"] not in ("main", *VARIANTS):
            names += ["unique_layers", "max_loops"]
        return tuple(model[name] for name in names)

    def settings(self, preset: Preset, world: World, arm: Arm) -> dict[str, Any]:
        asked = build(Measurement, {**preset.measurement, **world.measurement})
        run = preset.run(world, arm, seed=0)
        made, optimisation = parts(run), run.optimisation
        if optimisation.schedule != "constant":
            raise ValueError(
                f"preset {preset.name!r}: checkpoints compare at a constant learning rate alone, given the schedule "
                f"{optimisation.schedule!r}; leave it out"
            )
        if not optimisation.snapshots:
            raise ValueError(
                f"preset {preset.name!r}: a curve needs snapshots before the last of {optimisation.steps} steps, given "
                f"snapshot_every = {optimisation.snapshot_every}; give a twentieth of the steps or so"
            )
        variant = VARIANTS.get(arm.role)
        if variant is not None and (arm.trainer != "elt" or dict(arm.trainer_options) != variant):
            raise ValueError(
                f"preset {preset.name!r}: an arm of role {arm.role!r} is trainer 'elt' with trainer_options {variant}, "
                f"given {arm.trainer!r} with {dict(arm.trainer_options)}"
            )
        sampling = made.task.sampling(**asked.sampling)  # refuses unknown options before any training
        deepest = run.architecture.max_loops
        exits = sorted({deepest // 2, deepest}) if deepest % 2 == 0 else [deepest]
        compared = arm.trainer == "elt" and (arm.role == "main" or variant is not None)
        return {
            "training_steps": [*optimisation.snapshots, optimisation.steps],
            "exits": exits,
            "heldout_draws": asked.heldout_draws,
            "sample_loops": exits if asked.samples and compared else [],
            "samples": asked.samples,
            "sampling": asdict(sampling),
            "feature_extractors": [full_name(name) for name in asked.feature_extractors],
        }

    def measure(self, model: Model, run: Run, settings: Mapping[str, Any]) -> Measured:
        rows: list[dict[str, Any]] = []
        last = settings["training_steps"][-1]
        flops_per_step = training_flops(run) / run.optimisation.steps
        for step in settings["training_steps"]:
            then = model if step == last else model.at_step(step)
            cost = {
                "training_step": step,
                "training_samples": step * run.optimisation.batch_size,
                "training_flops": step * flops_per_step,
            }
            losses = heldout.evaluate(then, settings["exits"], settings["heldout_draws"])
            for loops, value in zip(losses.exits, losses.losses, strict=True):
                known = {"split": "heldout", "metric": "heldout_loss", "higher_is_better": False}
                rows.append({**cost, **known, "loops": loops, "value": value, "n_samples": losses.weights.size})
        rows += [{**cost, **row} for row in sample_scores(model, settings)]
        return Measured(rows)

    def evidence(self, rows: pd.DataFrame) -> dict[str, dict[Cell, Evidence]]:
        found: dict[str, dict[Cell, Evidence]] = {claim: {} for claim in self.claims}
        for _, here in rows.groupby(targets.CELL):
            where = Cell(*here[targets.CELL].iloc[0])
            for claim, evidence in (
                ("convergence", targets.elt_over_unique(here)),
                ("lambda-insensitive", variants.cosine_over_linear(here)),
            ):
                if evidence is not None:
                    found[claim][where] = evidence
        return found

    def summarise(self, rows: pd.DataFrame) -> pd.DataFrame:
        return training_curves.summary(rows)

    def figure(self, rows: pd.DataFrame) -> Figure:
        return training_curves.figure(rows)

    def remarks(self, rows: pd.DataFrame) -> list[str]:
        return targets.unreached(rows)


if __name__ == "__main__":
    from eltbench.studies.command import main

    sys.exit(main("convergence"))
