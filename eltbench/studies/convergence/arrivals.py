"""Which trainings reached the unique-depth model's final loss, and when: every looped model against its own twin.

A target never reached counts as the horizon. So for two copies of one trainer the ratio of steps falls below 1 by
chance: half of the seeds count as 1, the others lie below. Therefore the claim has a second condition, the ratio at a
target that both have reached, the worse of the two final losses, where copies are equal.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from eltbench.evidence.claims import Evidence
from eltbench.evidence.intervals import log_ratio
from eltbench.evidence.steps_to_target import steps_to_target
from eltbench.studies.curves import CELL, MODEL
from eltbench.studies.paired import without_ratio

COSTS = {"steps": "training_step", "samples": "training_samples", "flops": "training_flops"}


def curves(rows: pd.DataFrame) -> pd.DataFrame:
    """Held-out losses of every model at its own L_max, in order of the training steps; NaN where not above zero."""
    losses = rows[(rows["metric"] == "heldout_loss") & (rows["loops"] == rows["max_loops"])]
    losses = losses.assign(value=losses["value"].where(~(losses["value"] <= 0)))  # of these no logarithm can be taken
    return losses.sort_values("training_step")


def arrivals(rows: pd.DataFrame) -> pd.DataFrame:
    """One line a seed of every model that has a twin in its cell: as deep at L_max, of its width and seed.

    Columns: CELL, MODEL, seed, horizon (steps), target (the twin's final loss), nearest, reached, reason as in
    `Arrival`; steps, samples and flops to the target, and own_steps, own_samples and own_flops of the twin by the same
    rule; common_steps and own_common_steps to the worse of the two final losses.
    """
    found = []
    for _, here in curves(rows).groupby(CELL):
        unique = here[here["trainer"] == "unique-depth"]
        for _, model in here[here["trainer"] != "unique-depth"].groupby([*MODEL, "seed"]):
            known = model.iloc[0]
            alike = (unique["unique_layers"] == known["effective_depth"]) & (unique["width"] == known["width"])
            twin = unique[alike & (unique["seed"] == known["seed"])]
            if twin.empty:
                continue
            twin = twin[twin["run_id"] == twin["run_id"].iloc[0]]
            target = float(twin["value"].iloc[-1])
            theirs = steps_to_target(twin["training_step"], twin["value"], target)
            ours = steps_to_target(model["training_step"], model["value"], target)
            line: dict[str, Any] = {
                **{name: known[name] for name in (*CELL, *MODEL, "seed")},
                "horizon": int(model["training_step"].iloc[-1]),
                "target": target,
                **ours._asdict(),
                "reason": "; ".join(filter(None, (ours.reason, theirs.reason and f"unique-depth {theirs.reason}"))),
            }
            for name, column in COSTS.items():  # a step costs what it does on average
                for prefix, curve, steps in (("", model, ours.steps), ("own_", twin, theirs.steps)):
                    line[prefix + name] = steps * curve[column].iloc[-1] / curve["training_step"].iloc[-1]
            common = float(np.maximum(ours.nearest, theirs.nearest))
            for prefix, curve in (("", model), ("own_", twin)):
                line[f"{prefix}common_steps"] = steps_to_target(curve["training_step"], curve["value"], common).steps
            found.append(line)
    costs = [prefix + name for prefix in ("", "own_") for name in (*COSTS, "common_steps")]
    columns = [*CELL, *MODEL, "seed", "horizon", "target", "nearest", "reached", "reason", *costs]
    return pd.DataFrame(found, columns=columns)


def elt_over_unique(rows: pd.DataFrame) -> Evidence | None:
    """The evidence of one cell for the claim convergence, from elt's main model; None where no seed has both sides."""
    raced = arrivals(rows)
    raced = raced[(raced["trainer"] == "elt") & (raced["role"] == "main")]
    if raced.empty:
        return None
    asked = rows[(rows["role"] == "main") & (rows["trainer"] == "elt") | (rows["trainer"] == "unique-depth")]
    absent = sorted(set(asked["seed"]) - set(raced["seed"]))
    effects = {
        "steps": log_ratio(raced["steps"], raced["own_steps"]),
        "common-target": log_ratio(raced["common_steps"], raced["own_common_steps"]),
    }
    said = without_ratio(asked[asked["metric"] == "heldout_loss"])
    without = dict.fromkeys(effects, said) if said else {}
    return Evidence(effects, None, dict.fromkeys(effects, absent), without, counts=tuple(effects))


def unreached(rows: pd.DataFrame) -> list[str]:
    """One line for every cell in which no model reached its target, with the nearest target that was reached."""
    lines = []
    for _, here in arrivals(rows).dropna(subset="steps").groupby(CELL):  # a loss that is no number is no near miss
        if here["reached"].any():
            continue
        best = here.iloc[int((here["nearest"] / here["target"]).argmin())]
        name = f"{best['trainer']} {best['unique_layers']}N×{best['max_loops']}L"
        name += "" if best["role"] == "main" else f" ({best['role']})"
        lines.append(
            f"{' '.join(best[CELL])}: no model reached the final loss of its unique-depth model within "
            f"{here['horizon'].max()} steps, and every one counts as that; nearest came {name} of seed {best['seed']}: "
            f"a target of {best['nearest']:.6g} instead of {best['target']:.6g} it would have reached"
        )
    return lines
