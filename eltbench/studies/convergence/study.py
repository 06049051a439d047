"""Convergence: how many training steps, samples and FLOPs does a looped model need to be as good as unique layers?

Every curve comes from the checkpoints of one run: averaged weights at a constant learning rate, since checkpoints under
a decaying rate are not comparable. One thing a checkpoint cannot undo: λ of `elt` decays towards the end of the whole
run, so an early checkpoint is one of a training that was planned to be longer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa

from eltbench.core.config import Run
from eltbench.core.validation import build
from eltbench.evaluation import heldout
from eltbench.evaluation.quality.samples import sample_scores
from eltbench.evidence.claims import Cell, Evidence
from eltbench.studies import register
from eltbench.studies.base import Measured, Study
from eltbench.studies.convergence import arrivals as targets
from eltbench.studies.convergence import tables as training_curves
from eltbench.studies.convergence import variants
from eltbench.studies.convergence.claims import CLAIMS
from eltbench.studies.convergence.variants import VARIANTS
from eltbench.studies.heldout_rows import Observation, heldout_rows
from eltbench.studies.paired import SAMPLE_SCORES
from eltbench.studies.presets import Arm, Preset, World
from eltbench.training.flops import item_flops
from eltbench.training.loop import parts
from eltbench.training.model import Model

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    claims = CLAIMS

    def cell(self, model: Mapping[str, Any]) -> tuple[Any, ...]:
        """A trainer has one main model a world and one of each variant; a further size has a role of its own."""
        names = ["trainer", "task", "dataset", "backend", "role", "seed"]
        if model["role"] not in ("main", *VARIANTS):
            names += ["unique_layers", "max_loops"]
        return tuple(model[name] for name in names)

    def settings(self, preset: Preset, world: World, arm: Arm) -> dict[str, Any]:
        asked = build(Observation, {**preset.measurement, **world.measurement}, what="measurement")
        run = preset.run(world, arm, seed=0)
        made, optimisation = parts(run), run.optimisation
        if wrong := _wrong(preset, world, arm, run):
            raise ValueError(f"preset {preset.name!r}: {wrong}")
        deepest = run.architecture.max_loops
        exits = sorted({deepest // 2, deepest}) if deepest % 2 == 0 else [deepest]
        compared = arm.trainer == "elt" and arm.role in ("main", *VARIANTS)
        return {
            "training_steps": [*optimisation.snapshots, optimisation.steps],
            "exits": exits,
            "sample_loops": exits if asked.samples and compared else [],
            **asked.settings(run, made),
        }

    def measure(self, model: Model, run: Run, settings: Mapping[str, Any]) -> Measured:
        rows: list[dict[str, Any]] = []
        last = settings["training_steps"][-1]
        flops = training_flops(model)
        for step in settings["training_steps"]:
            then = model if step == last else model.at_step(step)
            cost = {
                "training_step": step,
                "training_samples": step * run.optimisation.batch_size,
                "training_flops": flops[step - 1],
            }
            losses = heldout.evaluate(then, settings["exits"], settings["heldout_draws"])
            found = heldout_rows(losses, run.architecture)
            rows += [{**cost, **row} for row in found if row["metric"] == "heldout_loss"]
        return Measured(rows).with_part(
            SAMPLE_SCORES, lambda: [{**cost, **row} for row in sample_scores(model, settings)]
        )

    def final_losses(self, rows: pd.DataFrame) -> pd.DataFrame:
        return super().final_losses(variants.ended(rows, "heldout_loss"))

    def evidence(self, rows: pd.DataFrame) -> dict[str, dict[Cell, Evidence]]:
        found: dict[str, dict[Cell, Evidence]] = {claim.id: {} for claim in self.claims}
        convergence, insensitive = self.claims
        for where, here in self.cells(rows):
            for claim, evidence in (
                (convergence, targets.elt_over_unique(here)),
                (insensitive, variants.cosine_over_linear(here, insensitive)),
            ):
                if evidence is not None:
                    found[claim.id][where] = evidence
        return found

    def summarise(self, rows: pd.DataFrame) -> pd.DataFrame:
        return training_curves.summary(rows)

    def figure(self, rows: pd.DataFrame) -> Figure:
        return training_curves.figure(rows)

    def remarks(self, rows: pd.DataFrame) -> list[str]:
        return targets.unreached(rows)


def training_flops(model: Model) -> np.ndarray:
    """FLOPs of the first 1, 2, … steps of a model's training (steps,), forward and backward, at the exits it read."""
    each = item_flops(model.run, model.parts, range(model.run.optimisation.steps))
    return model.run.optimisation.batch_size * np.cumsum(each)


def _wrong(preset: Preset, world: World, arm: Arm, run: Run) -> str:
    """Why the curves of an arm would compare with nothing; empty where they do."""
    optimisation, role = run.optimisation, arm.role
    if optimisation.schedule != "constant":
        given = f"given the schedule {optimisation.schedule!r}; leave it out"
        return f"checkpoints compare at a constant learning rate alone, {given}"
    if not optimisation.snapshots:
        given = f"given snapshot_every = {optimisation.snapshot_every}; give a twentieth of the steps or so"
        return f"a curve needs snapshots before the last of {optimisation.steps} steps, {given}"
    if not optimisation.ema_decay:
        given = "given ema_decay = 0, which averages nothing; give one between 0 and 1, or leave it out"
        return f"a curve is of averaged weights, {given}"
    if (arm.trainer, role) == ("elt", "main"):
        shapes = [
            preset.run(world, each, seed=0).architecture for each in preset.arms if each.trainer == "unique-depth"
        ]
        known = [(shape.unique_layers, shape.width) for shape in shapes]
        depth, width = run.architecture.effective_depth, run.architecture.width
        if known and (depth, width) not in known:
            return (
                f"elt's main model runs {depth} layers of width {width}, which no unique-depth arm has: expected "
                f"unique_layers = {depth} at that width, given (layers, width) {known}"
            )
    if role not in VARIANTS:
        return ""
    wanted = {"trainer": "elt", "trainer_options": VARIANTS[role]}
    given_arm = {"trainer": arm.trainer, "trainer_options": dict(arm.trainer_options)}
    if given_arm != wanted:
        return f"an arm of role {role!r} is {wanted}, given {given_arm}"
    for main in (each for each in preset.arms if (each.trainer, each.role) == ("elt", "main")):
        if dict(main.trainer_options) not in ({}, {"decay": "linear"}):
            return (
                f"the arm of role {role!r} stands beside linear decay and all terms: leave out the trainer_options of "
                f"elt's main arm, given {dict(main.trainer_options)}"
            )
        if preset.run(world, main, seed=0).architecture != run.architecture:
            return (
                f"the arm of role {role!r} must have the architecture of elt's main arm, given "
                f"{dict(arm.architecture)} beside {dict(main.architecture)}"
            )
    return ""
