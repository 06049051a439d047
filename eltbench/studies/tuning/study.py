"""Tuning: which rate, residual scale and norm suit each model of a world, chosen on validation items?

Every arm of a preset is trained with every combination of the settings in its table `sweep`, so each has the same
budget. Validation items are training items that are held back; the held-out items are not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa

from eltbench.core.config import Run
from eltbench.core.validation import build, unknown
from eltbench.evaluation import heldout
from eltbench.evidence.claims import Cell, Evidence
from eltbench.studies import curves, register
from eltbench.studies.base import Measured, Study
from eltbench.studies.heldout_rows import Observation
from eltbench.studies.presets import Arm, Preset, World
from eltbench.studies.tuning import choosing
from eltbench.studies.tuning.claims import CLAIMS, LOOPED, TRANSFER
from eltbench.training.job import Job
from eltbench.training.loop import parts
from eltbench.training.model import Model

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@register("tuning", version=1)
class Tuning(Study):
    """Validation loss at L_max/2, L_max and 2·L_max of every arm with every setting of the sweep."""

    columns: ClassVar = {"role": pa.string(), **choosing.SETTINGS}
    claims = CLAIMS
    chooses = True

    def cell(self, model: Mapping[str, Any]) -> tuple[Any, ...]:
        """What its tables tell apart: models of two widths need roles of their own."""
        return tuple(model[name] for name in (*curves.CELL, *curves.MODEL, "seed", *choosing.NAMES))

    def plan(self, preset: Preset) -> list[Job]:
        for name in preset.sweep:
            if name not in choosing.NAMES:
                raise ValueError(f"preset {preset.name!r}: {unknown('setting in sweep', name, choosing.NAMES)}")
        return super().plan(preset)

    def keys(self, preset: Preset, world: World, arm: Arm) -> dict[str, Any]:
        run = preset.run(world, arm, seed=0)
        both = {**vars(run.architecture), **vars(run.optimisation)}
        return {"role": arm.role, **{name: both[name] for name in choosing.NAMES}}

    def settings(self, preset: Preset, world: World, arm: Arm) -> dict[str, Any]:
        asked = build(Observation, {**preset.measurement, **world.measurement}, what="measurement")
        run = preset.run(world, arm, seed=0)
        made, deepest = parts(run), run.architecture.max_loops
        exits = [1] if made.trainer.depth == "unique" else sorted({max(1, deepest // 2), deepest, 2 * deepest})
        return {"exits": exits, "heldout_draws": asked.heldout_draws}

    def measure(self, model: Model, run: Run, settings: Mapping[str, Any]) -> Measured:
        found = heldout.evaluate(model, settings["exits"], settings["heldout_draws"])
        about = {"split": "validation", "metric": "heldout_loss", "higher_is_better": False}
        losses = zip(found.exits, found.losses, strict=True)
        return Measured(
            [{**about, "loops": at, "value": float(value), "n_samples": found.weights.size} for at, value in losses]
        )

    def final_losses(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Those with the chosen settings: a rate that is too high may train nothing."""
        chosen = [{**model, **setting} for model, setting, _ in choosing.choices(rows)]
        names = [*curves.CELL, *curves.MODEL, *choosing.NAMES]
        return choosing.at_max(rows).merge(pd.DataFrame(chosen, columns=names), how="inner")

    def evidence(self, rows: pd.DataFrame) -> dict[str, dict[Cell, Evidence]]:
        found: dict[str, dict[Cell, Evidence]] = {claim.id: {} for claim in self.claims}
        for cell, here in self.cells(choosing.at_max(rows)):
            for id, evidence in (("loop-needs-scale", _with_scale(here)), ("rate-transfer", _transferred(here))):
                if evidence is not None:
                    found[id][cell] = evidence
        return found

    def summarise(self, rows: pd.DataFrame) -> pd.DataFrame:
        return choosing.summary(rows)

    def figure(self, rows: pd.DataFrame) -> Figure:
        from eltbench.studies.tuning.figure import figure

        return figure(choosing.summary(rows))

    def told(self, rows: pd.DataFrame) -> dict[str, Any]:
        """The choice of every model."""
        return {"choices": [{**model, **setting} for model, setting, _ in choosing.choices(rows)]}

    def remarks(self, rows: pd.DataFrame) -> list[str]:
        """The choice of every model as a preset would say it, and where it stands at an end of its rates."""
        return [choosing.said(*choice) for choice in choosing.choices(rows)]


def _with_scale(here: pd.DataFrame) -> Evidence | None:
    """Log-ratios of each looped trainer with residual scale over without; None where a trainer lacks either."""
    primary, absent = {}, {}
    for trainer in LOOPED:
        losses = choosing.by_setting(here[(here["trainer"] == trainer) & (here["role"] == "main")])
        plain = losses.index.get_level_values("residual_scale") == "none"
        if not plain.any() or plain.all():
            return None
        scaled, without = (choosing.chosen_by_others(part, part) for part in (losses[~plain], losses[plain]))
        effect = (scaled / without).map(np.log)
        primary[trainer] = effect.dropna().to_numpy()
        absent[trainer] = sorted(effect.index[effect.isna()])
    return Evidence(primary, absent=absent)


def _transferred(here: pd.DataFrame) -> Evidence | None:
    """Log-ratios at the most loops of settings chosen at the fewest over its own.

    None without two loop counts of one block; a model in two roles counts once.
    """
    looped = here[(here["trainer"] == TRANSFER) & (here["max_loops"] > 1) & (here["residual_scale"] != "none")]
    looped = looped.drop_duplicates(["unique_layers", "max_loops", "seed", *choosing.NAMES])
    sizes = sorted(set(looped["max_loops"]))
    if len(sizes) < 2 or looped["unique_layers"].nunique() > 1:
        return None
    few, many = (choosing.by_setting(looped[looped["max_loops"] == size]) for size in (sizes[0], sizes[-1]))
    effect = (choosing.chosen_by_others(few, many) / choosing.chosen_by_others(many, many)).map(np.log)
    absent = {"scaled": sorted(effect.index[effect.isna()])}
    return Evidence({"scaled": effect.dropna().to_numpy()}, absent=absent, counts=("scaled",))  # one choice: zeros
