"""Whether the models that a claim compares have learned: their held-out loss against predictors without a network.

Two networks that have learned nothing agree. So a cell is judged only where every compared run ends, at the loops that
it was trained for, at least LEARNED below the best trivial predictor of its world (`Task.trivial`), evaluated on the
same corruptions when verdicts are made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pandas as pd

from eltbench.core.config import Run
from eltbench.evaluation.heldout import Trivial, trivial
from eltbench.evidence.claims import Cell, Evidence
from eltbench.studies.base import Study
from eltbench.studies.presets import Preset
from eltbench.training.loop import parts

LEARNED = 0.1  # share by which a loss lies below the best trivial one; see docs/verdicts.md
DRAWS = 4  # corruptions of a held-out item where a study's settings do not say

Found = dict[str, dict[Cell, Evidence]]


def withheld(study: Study, rows: pd.DataFrame, presets: Sequence[Preset], evidence: Found) -> Found:
    """The evidence, with a reason for no verdict in every cell where a model that is compared has not learned.

    presets: those that the rows were made by, the latest last; the worlds of the rows are sought among them.
    """
    found = {claim: dict(cells) for claim, cells in evidence.items()}
    worlds = {key: (preset, world) for preset in presets for key, world in _worlds(study, preset)}
    for cell, here in study.cells(rows):
        ends = study.final_losses(here)
        if ends.empty:
            continue
        floors: list[Trivial] | str = "no preset of these rows says how their world was made; repeat its command"
        if (key := tuple(here[_names(study)].iloc[0])) in worlds:
            preset, world = worlds[key]
            try:
                arm = preset.sized_arms()[0]  # any run of the world
                draws = study.settings(preset, world, arm).get("heldout_draws", DRAWS)
                floors = _floors(preset.run(world, arm, seed=0), draws)
            except (ValueError, OSError, ImportError) as error:
                floors = f"its world cannot be made here: {error}"
        for claim, cells in found.items():
            if cell in cells and (reason := _reason(_compared(study, claim, ends), floors)):
                without = {**dict.fromkeys(cells[cell].primary, reason), **cells[cell].without}
                cells[cell] = replace(cells[cell], without=without)
    return found


def _names(study: Study) -> list[str]:
    """The columns that tell a study's worlds apart."""
    return ["task", "dataset", *(["world"] if "world" in study.columns else [])]


def _worlds(study: Study, preset: Preset) -> Iterator[tuple[tuple[Any, ...], Any]]:
    for world in preset.worlds:
        for arm in preset.sized_arms()[:1]:
            known = {"task": world.task, "dataset": world.dataset, **study.keys(preset, world, arm)}
            yield tuple(known[name] for name in _names(study)), world


@cache
def _floors(run: Run, draws: int) -> list[Trivial]:
    return trivial(parts(run), run.dataset, draws)


def _compared(study: Study, claim: str, ends: pd.DataFrame) -> pd.DataFrame:
    """The final losses of the models that a claim compares."""
    needs = next(each.needs for each in study.claims if each.id == claim)
    models = [pd.Series({name: value for name, value in model.items() if name in ends}) for model in needs]
    chosen = [(ends[model.index] == model).all(axis=1) for model in models]
    return ends[pd.concat(chosen, axis=1).any(axis=1)]


def _reason(ends: pd.DataFrame, floors: Sequence[Trivial] | str) -> str:
    """Why these models give no verdict; empty where all have learned, or where the task names no trivial predictor."""
    if ends.empty or not floors:
        return ""
    if isinstance(floors, str):
        return f"not known to be trained: {floors}"
    whole = bool((ends["metric"] == "heldout_loss").all())
    name, floor = min(((each.name, each.loss if whole else each.error) for each in floors), key=lambda pair: pair[1])
    most = (1 - LEARNED) * floor
    over = ends[ends["value"] > most].sort_values("value")
    if over.empty:
        return ""
    worst = over.to_dict("records")[-1]
    return (
        f"not trained: {len(over)} of {len(ends)} runs end above a held-out "
        f"{'loss' if whole else 'error'} of {most:.4g}, which is {100 * LEARNED:.0f} % below that of the trivial "
        f"predictor {name!r}, {floor:.4g}; furthest is {worst['trainer']} {worst['unique_layers']}N×"
        f"{worst['max_loops']}L of seed {worst['seed']} at {worst['value']:.4g}"
    )
