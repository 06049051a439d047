"""Quality against cost: the summary table of the study depth_grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from eltbench.evaluation.frontier import area_under_curve, hypervolume, monotonicity_violations, pareto_front
from eltbench.studies import curves

WORLD = ["task", "world", "backend"]
MODEL = [*curves.MODEL, "width"]
POINT = [*MODEL, "loops"]
TIMED = ["host", "device", "precision", "compiled", "threads", "batch_size"]  # what a time depends on
COSTS = {"front_parameters": "params", "front_compute": "macs", "front_seconds": "seconds"}


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """One line per model and exit with mean and 95 % interval over seeds, then what is said of each trainer.

    Columns are those of `curves.summary` with `world` for the dataset, `width`, and for a held-out loss `seconds` per
    call (median over seeds; empty where calls were not timed, or not timed alike) and the share of seeds in which the
    point lies on the Pareto front of loss against each of COSTS. Further lines: variants of elt over elt
    (`curves.compared`), and of each trainer, over all its models of a world, `hypervolume` (ln MACs × loss, below the
    largest compute and the worst loss of a model at its own depth), `area_under_curve` (mean over ln MACs of the best
    loss affordable, on the budgets that all trainers with several points share), and of its main models
    `monotonicity_violations` (share of steps between exits up to L_max at which the loss rises).
    """
    cell = [*WORLD, "width"]
    table = curves.summary(rows, cell, further=curves.compared(rows[rows["trainer"] == "elt"], cell))
    losses = with_seconds(rows)
    if losses.empty:
        return table
    keys = [*WORLD, *POINT]
    points = losses.groupby(keys, dropna=False)[["seconds", *COSTS]].agg("mean").reset_index()
    table = table.merge(points.assign(metric="heldout_loss"), how="left", on=[*keys, "metric"])
    trainers = pd.DataFrame(list(_of_trainers(losses)))
    whole = {"seeds": "Int64", "width": "Int64"}  # a trainer's line has no width
    return pd.concat([table.astype(whole), trainers.astype({"seeds": "Int64"})], ignore_index=True)


def with_seconds(rows: pd.DataFrame) -> pd.DataFrame:
    """The held-out losses with `seconds` per call and whether each lies on a front of its seed.

    A world whose calls were timed on several machines, or otherwise unlike, has no seconds.
    """
    calls = rows[rows["metric"] == "call_seconds"]
    conditions = calls[TIMED].astype(str).agg(" ".join, axis=1)
    alike = conditions.groupby([calls[name] for name in WORLD]).transform("nunique") == 1
    timed = calls[alike].groupby([*WORLD, *POINT])["value"].median().rename("seconds")
    losses = rows[rows["metric"] == "heldout_loss"].join(timed, on=[*WORLD, *POINT])
    losses = losses.assign(**dict.fromkeys(COSTS, np.nan)).reset_index(drop=True)
    for _, seed in losses.groupby([*WORLD, "seed"]):
        for front, cost in COSTS.items():
            known = seed[seed[cost].notna()]
            losses.loc[known.index, front] = pareto_front(known[cost], known["value"]).astype(float)
    return losses


def _of_trainers(losses: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """The lines of every trainer of every world."""
    for world, here in losses.groupby(WORLD):
        known = dict(zip(WORLD, world, strict=True))
        trained = here[here["loops"] == here["max_loops"]]
        worst = trained["value"][np.isfinite(trained["value"])].max()
        reference = float(np.log(here["macs"].max())), float(worst)

        def dominated(points: pd.DataFrame, reference: tuple[float, float] = reference) -> float:
            return hypervolume(np.log(points["macs"]), points["value"], reference)

        yield from _lines(known, "hypervolume", here, dominated, higher_is_better=True)
        several = here.groupby("trainer").filter(lambda its: its["macs"].nunique() > 1)
        if len(several):
            budgets = several.groupby("trainer")["macs"].min().max(), here["macs"].max()
            if budgets[0] < budgets[1]:

                def affordable(points: pd.DataFrame, budgets: tuple[float, float] = budgets) -> float:
                    return area_under_curve(points["macs"], points["value"], *budgets)

                yield from _lines(known, "area_under_curve", several, affordable)
        main = here[(here["role"] == "main") & (here["loops"] <= here["max_loops"]) & (here["max_loops"] > 1)]
        yield from _lines(known, "monotonicity_violations", main, _share_of_rising_steps)


def _lines(
    known: dict[str, Any],
    metric: str,
    points: pd.DataFrame,
    measure: Callable[[pd.DataFrame], float],
    *,
    higher_is_better: bool = False,
) -> Iterator[dict[str, Any]]:
    """What `measure` says of every trainer, over the seeds that hold all of its points: a lost run tells nothing."""
    for trainer, its in points.groupby("trainer"):
        seeds = [of_seed for _, of_seed in its.groupby("seed")]
        values = [measure(of_seed) for of_seed in seeds if len(of_seed) == max(map(len, seeds))]
        line = {**known, "trainer": trainer, "metric": metric, "higher_is_better": higher_is_better}
        yield {**line, **curves.spread(values), "seeds": len(values)}


def _share_of_rising_steps(points: pd.DataFrame) -> float:
    """Of all steps from one exit to the next, over the models of one seed."""
    models = [model.sort_values("loops")["value"] for _, model in points.groupby(MODEL)]
    return sum(map(monotonicity_violations, models)) / sum(len(model) - 1 for model in models)
