"""Which settings a model is trained with: those of the lowest mean validation loss over seeds, at its L_max.

Where two choices are compared, each seed's settings are chosen by the other seeds, so that no seed chooses for itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from eltbench.evidence.intervals import percent
from eltbench.evidence.results import records
from eltbench.studies.curves import CELL, MODEL, spread
from eltbench.studies.paired import log_ratios

SETTINGS = {
    "learning_rate": pa.float64(),
    "schedule": pa.string(),
    "steps": pa.int64(),
    "residual_scale": pa.string(),
    "residual_strength": pa.float64(),
    "norm": pa.string(),
}
"""What a sweep may vary, as columns of the rows."""

NAMES = list(SETTINGS)


class Choice(NamedTuple):
    """A model by its columns, the settings that suit it best, and its losses as `by_setting` has them."""

    model: dict[str, Any]
    setting: dict[str, Any]
    losses: pd.DataFrame


def by_setting(losses: pd.DataFrame) -> pd.DataFrame:
    """The losses of one model as a table with a line a setting and a column a seed, lacking seeds NaN."""
    return losses.pivot(index=NAMES, columns="seed", values="value")


def best(losses: pd.DataFrame) -> Any:
    """The setting with the lowest mean of `by_setting`, of those that ended well in every seed; None without one."""
    means = losses.where(np.isfinite(losses)).mean(axis=1, skipna=False).dropna()
    return None if means.empty else means.idxmin()


def chosen_by_others(chosen_among: pd.DataFrame, taken_from: pd.DataFrame) -> pd.Series:
    """Each seed's loss in `taken_from` at the setting that is best in `chosen_among` over the other seeds; by seed.

    NaN where there is no such setting.
    """
    found = {}
    for seed in taken_from.columns:
        setting = best(chosen_among.drop(columns=seed, errors="ignore"))
        found[seed] = taken_from.at[setting, seed] if setting in taken_from.index else np.nan
    return pd.Series(found, dtype=float)


def at_max(rows: pd.DataFrame) -> pd.DataFrame:
    """The validation losses of every model at the loops that it was trained for."""
    return rows[(rows["metric"] == "heldout_loss") & (rows["loops"] == rows["max_loops"])]


def choices(rows: pd.DataFrame) -> Iterator[Choice]:
    """Of every model of every cell, where a setting ended well in every seed."""
    for _, losses in at_max(rows).groupby([*CELL, *MODEL]):
        table = by_setting(losses)
        if (setting := best(table)) is not None:
            at = records(losses[(losses[NAMES] == list(setting)).all(axis=1)])[0]
            yield Choice({name: at[name] for name in (*CELL, *MODEL)}, {name: at[name] for name in NAMES}, table)


def varied(losses: pd.DataFrame) -> list[str]:
    """The settings of which a table of `by_setting` has several values."""
    return [name for name in NAMES if losses.index.get_level_values(name).nunique() > 1]


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """One line per model, setting and exit: mean and 95 % interval over seeds, whether chosen, and how far above.

    Columns: those of the cell, the model and its settings, loops, mean, low, high, seeds, chosen, and
    above_chosen_percent, the mean log-ratio to the chosen setting's loss at the same exit.
    """
    lines = []
    taken = {tuple(model.values()): tuple(setting.values()) for model, setting, _ in choices(rows)}
    losses = rows[rows["metric"] == "heldout_loss"]
    for _, of_exit in losses.groupby([*CELL, *MODEL, "loops"]):
        known = records(of_exit[[*CELL, *MODEL, "loops"]])[0]
        setting = taken.get(tuple(known.values())[:-1])
        chosen = of_exit[(of_exit[NAMES] == list(setting or [None] * len(NAMES))).all(axis=1)]
        for _, group in of_exit.groupby(NAMES):
            above = log_ratios(group, chosen)
            lines.append(
                {
                    **known,
                    **(own := records(group[NAMES])[0]),
                    **spread(group["value"]),
                    "seeds": group["seed"].nunique(),
                    "chosen": tuple(own.values()) == setting,
                    "above_chosen_percent": percent(float(above.mean())) if len(above) else np.nan,
                }
            )
    return pd.DataFrame(lines)


def said(model: dict[str, Any], setting: dict[str, Any], losses: pd.DataFrame) -> str:
    """A choice as a preset would say it, and whether its rate is the smallest or the largest that was tried."""
    chosen = ", ".join(f"{name} = {_toml(setting[name])}" for name in varied(losses))
    role = "" if model["role"] == "main" else f" ({model['role']})"
    who = (
        f"{model['task']} {model['dataset']}: {model['trainer']} {model['unique_layers']}N×{model['max_loops']}L{role}"
    )
    rates = losses.index.get_level_values("learning_rate")
    at_end = len(set(rates)) > 1 and setting["learning_rate"] in (rates.min(), rates.max())
    return f"{who}: {chosen or 'nothing varied'}" + ("; its rate is at an end of those tried" if at_end else "")


def _toml(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else f"{value:g}"
