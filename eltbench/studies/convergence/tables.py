"""Quality by training cost: the summary table and the figure of studies whose rows are curves over training steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from eltbench.evidence.intervals import log_ratio
from eltbench.studies.convergence import arrivals as targets
from eltbench.studies.convergence.arrivals import COSTS
from eltbench.studies.convergence.variants import FROM_LINEAR, VARIANTS, changes
from eltbench.studies.curves import CELL, MODEL, points, spread, spread_in_percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POINT = ["metric", "loops", "training_step"]
ALONG = ["training_samples", "training_flops", "params", "higher_is_better", "n_samples", "feature_extractor"]
WHOLE = ["unique_layers", "max_loops", "loops", "training_step", "training_samples", "seeds", "params", "n_samples"]
ORDER = {role: number for number, role in enumerate(VARIANTS)}
RATIOS = {**{name: f"{name}_to_target_ratio" for name in COSTS}, "common_steps": "steps_to_common_target_ratio"}


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean and 95 % interval over seeds of every point of every curve, then what the curves are compared by.

    Columns: CELL, MODEL, POINT, mean, low, high, seeds, ALONG, and reason (which seeds' steps are not interpolated).
    Further lines: `steps_to_target`; RATIOS, the model's over those of the unique-depth model of its depth, geometric
    means (see `targets.arrivals`); of each variant of elt `loss_change_from_linear_percent` at L_max/2 and L_max. Mean
    and bounds are empty where a seed's value is no finite number.
    """
    keys = CELL + MODEL + POINT
    lines = points(rows, keys, ALONG)
    about = {"trainer": "elt", "metric": FROM_LINEAR, "higher_is_better": False}
    lines += _to_target(rows)
    lines += [{**it, **about, "seeds": len(ratios), **spread_in_percent(ratios)} for it, ratios in changes(rows)]
    table = pd.DataFrame(lines).astype(dict.fromkeys(WHOLE, "Int64"))
    columns = [*keys, "mean", "low", "high", "seeds", *ALONG, "reason"]
    return table[columns].sort_values(keys, na_position="first", ignore_index=True)


def _to_target(rows: pd.DataFrame) -> list[dict[str, Any]]:
    lines = []
    for _, model in targets.arrivals(rows).groupby([*CELL, *MODEL]):
        reasons = [f"seed {seed}: {why}" for seed, why in zip(model["seed"], model["reason"], strict=True) if why]
        known = {
            **model[[*CELL, *MODEL]].iloc[0],
            "loops": model["max_loops"].iloc[0],
            "seeds": len(model),
            "higher_is_better": False,
            "reason": "; ".join(reasons) or None,
        }
        lines.append({**known, "metric": "steps_to_target", **spread(model["steps"])})
        for name, metric in RATIOS.items():
            ratio = spread(log_ratio(model[name], model[f"own_{name}"]))
            with np.errstate(over="ignore"):
                ratio = {bound: float(np.exp(value)) for bound, value in ratio.items()}
            lines.append({**known, "metric": metric, **ratio})
    return lines


def figure(rows: pd.DataFrame) -> Figure:
    """For each cell the loss by training steps, and over unique depth's at the same FLOPs; below, elt's variants."""
    from eltbench.evidence import figures

    table = summary(rows)
    panels = [(here, kind) for _, here in table.groupby(CELL) for kind in _kinds(here)]
    heights = {"curves": 1.0, "variants": 0.25 + 0.08 * table.loc[table["metric"] == FROM_LINEAR, "role"].nunique()}
    canvas, axes = figures.grid(len(panels), 2, [heights[kind] for _, kind in panels])
    arrivals = targets.arrivals(rows)
    for row, (here, kind) in zip(axes, panels, strict=True):
        where = here[CELL].iloc[0]
        title = figures.heading(where, table)
        if kind == "curves":
            shown = here[~here["role"].isin(VARIANTS) & (here["loops"] == here["max_loops"])]
            raced = arrivals[(arrivals[CELL] == list(where)).all(axis=1) & ~arrivals["role"].isin(VARIANTS)]
            losses = shown[shown["metric"] == "heldout_loss"]
            marks = raced.assign(at=raced["steps"]).groupby(MODEL)[["at", "target", "reached"]].mean().reset_index()
            at_steps = losses.assign(at=losses[COSTS["steps"]])
            figures.training_curves(row[0], at_steps, marks, title, "training steps", "held-out loss at L_max")
            over = over_unique(losses.assign(at=losses[COSTS["flops"]]))
            figures.over_curves(row[1], over, losses, title, "training FLOPs", "loss over unique depth's, %")
        else:
            effects = here[here["metric"] == FROM_LINEAR].sort_values("role", key=lambda roles: roles.map(ORDER))
            deepest = effects["max_loops"].max()
            for axis, loops in zip(row, (deepest // 2, deepest), strict=True):
                figures.forest(axis, effects[effects["loops"] == loops], 2.0, f"{title}: elt at L = {loops}")
    figures.key(canvas, int(table["seeds"].max()))
    return canvas


def over_unique(losses: pd.DataFrame) -> pd.DataFrame:
    """Losses in percent of the unique-depth model's at the same cost `at`, between whose snapshots it is interpolated.

    Its own are left out, and what lies outside its curve; empty where there is no such model.
    """
    unique = losses[losses["trainer"] == "unique-depth"].sort_values("at")
    others = losses[losses["trainer"] != "unique-depth"]
    if unique.empty:
        return others[:0]
    others = others[others["at"].between(unique["at"].min(), unique["at"].max())]
    logs = (np.log(values.to_numpy(float)) for values in (others["at"], unique["at"], unique["mean"]))
    base = np.exp(np.interp(*logs))
    return others.assign(**{bound: 100 * (others[bound] / base - 1) for bound in ("mean", "low", "high")})


def _kinds(table: pd.DataFrame) -> list[str]:
    variants = table.loc[table["metric"] == FROM_LINEAR, "role"].nunique()
    return ["curves", "variants"] if variants > 1 else ["curves"]  # one dot is better read in the table of claims
