"""Depth grid: how should a given depth be made of N unique layers and L loops?

Every looped curve stands beside its controls: unique layers at equal compute (`equal-compute`, D layers) and at equal
parameters (`equal-parameters`, N layers), and models trained for one depth alone (`dedicated`). Models are shared with
the study extrapolation wherever trainer, world, architecture and optimisation agree.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd
import pyarrow as pa

from eltbench.backends import check_exits
from eltbench.core.config import Run
from eltbench.core.validation import build
from eltbench.evaluation import heldout, solving
from eltbench.evaluation.quality.samples import sample_scores
from eltbench.evaluation.speed.timing import call_seconds
from eltbench.evidence.claims import Cell, Claim, Condition, Evidence
from eltbench.evidence.results import CELL
from eltbench.studies import register
from eltbench.studies.base import Measured, Study
from eltbench.studies.depth_grid import figure as frontier_figure
from eltbench.studies.depth_grid import tables as frontier
from eltbench.studies.depth_grid.claims import CLAIMS, DEDICATED, Trained
from eltbench.studies.heldout_rows import Observation, check_least, check_repeats, heldout_rows, item_table
from eltbench.studies.paired import SAMPLE_SCORES, log_ratios, ratio_evidence, without_ratio
from eltbench.studies.presets import Arm, Preset, World
from eltbench.training.loop import parts
from eltbench.training.model import Model

if TYPE_CHECKING:
    from matplotlib.figure import Figure


FURTHEST = 16  # multiple of L_max that may be asked of a model: what rows may hold


@dataclass(frozen=True)
class Measurement(Observation):
    """What a preset's table `measurement` may say."""

    beyond: float = 1.5  # held-out loss is measured up to this multiple of L_max
    timed_batch: int = 128  # items of the network calls that are timed; 0: none is
    timing_rounds: int = 9  # each of them this often

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.beyond <= FURTHEST:
            allowed = f"from 1 to {FURTHEST}, a multiple of L_max"
            raise ValueError(f"measurement: beyond must be {allowed}, given {self.beyond}")
        check_least(self, timed_batch=0, timing_rounds=1)
        check_repeats(self, "timing_rounds")


@register("depth_grid", version=1)
class DepthGrid(Study):
    """Loss and solving at every exit up to `beyond` times L_max, samples at L_max, and the seconds of network calls."""

    columns: ClassVar = {
        "role": pa.string(),  # main, or which control
        "world": pa.string(),  # the dataset with its options and the task's, which set it apart
        "stratum": pa.string(),  # distance 3, of puzzles difficulty 2 or harder than trained; empty for all together
        "reason": pa.string(),  # why a value is missing
        "sampler": pa.string(),
        "sampling_steps": pa.int64(),
        "guidance_scale": pa.float64(),
        "batch_size": pa.int64(),  # items of a timed call
        "threads": pa.int64(),  # of a timed call
    }
    claims = CLAIMS
    compared_within = ("task", "world", "backend", "width")

    def cell(self, model: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(model[name] for name in (*CELL, "role", "world"))

    def keys(self, preset: Preset, world: World, arm: Arm) -> dict[str, Any]:
        options = {**world.dataset_options, **world.task_options}
        return {
            "role": arm.role,
            "world": " ".join([world.dataset, *(f"{key}={options[key]}" for key in sorted(options))]),
        }

    def settings(self, preset: Preset, world: World, arm: Arm) -> dict[str, Any]:
        asked = build(Measurement, {**preset.measurement, **world.measurement})
        run = preset.run(world, arm, seed=0)
        made = parts(run)
        deepest = run.architecture.max_loops
        reach = math.floor(round(asked.beyond * deepest, 6))  # 1.15 times 20 loops are 23, whatever floats say
        one_depth = made.trainer.depth == "unique" or arm.role == "dedicated"
        return {
            **asked.settings(run, made),
            "exits": [deepest] if one_depth else list(check_exits(range(1, reach + 1))),
            "sample_loops": [deepest] if asked.samples else [],
            "timed_exits": [deepest] if one_depth else list(range(1, deepest + 1)),
            "timed_batch": asked.timed_batch,
            "timing_rounds": asked.timing_rounds,
            **({"solving": True} if made.dataset.solvable else {}),
        }

    def measure(self, model: Model, run: Run, settings: Mapping[str, Any]) -> Measured:
        losses = heldout.evaluate(model, settings["exits"], settings["heldout_draws"])
        measured = Measured(heldout_rows(losses, run.architecture), {"items": item_table(losses)})
        measured = measured.with_part(SAMPLE_SCORES, lambda: sample_scores(model, settings))
        if settings.get("solving"):
            measured = measured.with_part("solved", lambda: solving.rows(model, settings["exits"]))
        if settings["timed_batch"]:
            measured = measured.with_part("call_seconds", lambda: _timed(model, run, settings))
        return measured

    def cells(self, rows: pd.DataFrame) -> Iterator[tuple[Cell, pd.DataFrame]]:
        """By world, and by width where a world has several: a claim compares models of one width."""
        for _, of_world in rows.groupby(frontier.WORLD):
            cell = Cell(*of_world[frontier.WORLD].iloc[0])
            widths = of_world.groupby("width")
            for width, here in widths:
                yield cell if len(widths) == 1 else cell._replace(dataset=f"{cell.dataset} width={width}"), here

    def evidence(self, rows: pd.DataFrame) -> dict[str, dict[Cell, Evidence]]:
        found: dict[str, dict[Cell, Evidence]] = {claim.id: {} for claim in self.claims}
        for cell, here in self.cells(rows):
            for claim in self.claims:
                gains = claim.id == "diminishing-loops"
                shown = _diminishing(here, claim) if gains else _ratios(here, claim.conditions)
                if shown is not None:
                    found[claim.id][cell] = shown
        return found

    def summarise(self, rows: pd.DataFrame) -> pd.DataFrame:
        return frontier.summary(rows)

    def figure(self, rows: pd.DataFrame) -> Figure:
        return frontier_figure.figure(frontier.summary(rows))


def _timed(model: Model, run: Run, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    batch_size = settings["timed_batch"]
    seconds = call_seconds(model, settings["timed_exits"], batch_size=batch_size, rounds=settings["timing_rounds"])
    known = {"metric": "call_seconds", "higher_is_better": False, "batch_size": batch_size, "threads": run.threads}
    return [{**known, "loops": at, "value": value} for at, value in seconds.items()]


def _at_its_depth(rows: pd.DataFrame, metric: str, model: Trained) -> pd.DataFrame:
    """Seeds and values of one model's metric at the loop count that it was trained for."""
    here = (rows["metric"] == metric) & rows["stratum"].isna() & (rows["loops"] == rows["max_loops"])
    for name, value in model._asdict().items():
        here &= rows[name] == value
    return rows.loc[here, ["seed", "value"]]


def _ratios(rows: pd.DataFrame, conditions: Sequence[Condition]) -> Evidence | None:
    """The evidence of conditions that compare two models; None where a world lacks one of them."""

    at = partial(_at_its_depth, rows)
    frames = [at("heldout_loss", model) for condition in conditions for model in condition.compares]
    if any(frame.empty for frame in frames):
        return None
    return ratio_evidence(rows, {seed for frame in frames for seed in frame["seed"]}, conditions, at)


def _diminishing(rows: pd.DataFrame, claim: Claim) -> Evidence | None:
    """The evidence of diminishing-loops: its ratio, and ln(loss at 1 / at 2 loops) − ln(loss at 4 / at 8 loops).

    Gains are log-ratios, the stricter reading: were the loss to halve at every doubling, the differences of losses
    would shrink, and the gains would not. None where a world holds neither condition.
    """
    sides = {loops: _at_its_depth(rows, "heldout_loss", model) for loops, model in DEDICATED.items()}
    measured = not any(frame.empty for frame in sides.values())
    _, small_block = claim.conditions
    ratio = _ratios(rows, [small_block])
    if ratio is None and not measured:
        return None
    ratio = ratio or Evidence({small_block.name: ()})
    gain, absent = pd.Series(dtype=float), []
    if measured:
        early, late = log_ratios(sides[1], sides[2]), log_ratios(sides[4], sides[8])
        seeds = early.index.intersection(late.index)
        gain = early[seeds] - late[seeds]
        absent = sorted({seed for frame in sides.values() for seed in frame["seed"]} - set(seeds))
    said = without_ratio(*sides.values())
    without = {**ratio.without, **({"gain": said} if said else {})}
    return Evidence({**ratio.primary, "gain": gain.to_numpy()}, ratio.second, {**ratio.absent, "gain": absent}, without)
