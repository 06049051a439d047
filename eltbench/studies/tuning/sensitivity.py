"""What each setting is worth: the best loss with another value of it, over the chosen one's."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from eltbench.core import tables
from eltbench.studies.curves import CELL, MODEL
from eltbench.studies.tuning.choosing import NAMES

HEAD = ("model", "chosen", "validation loss [95 %]", "best with another value instead")


def others(model: pd.DataFrame) -> Iterator[tuple[str, object, float]]:
    """Setting, value and percent above the choice, for every value but the chosen one, all else chosen anew.

    model: the lines of one model at one exit of `choosing.summary`; a value without a finite mean is left out.
    """
    (chosen,) = model[model["chosen"]].to_dict("records")
    for name in NAMES:
        for value, with_value in model.dropna(subset="mean").groupby(name):
            if value != chosen[name]:
                yield name, value, 100 * (with_value["mean"].min() / chosen["mean"] - 1)


def markdown(table: pd.DataFrame) -> str:
    """One line a model of `choosing.summary`, at its L_max."""
    lines = []
    at_max = table[table["loops"] == table["max_loops"]]
    for (*_, trainer, role, layers, deepest), model in at_max.groupby([*CELL, *MODEL]):
        if not model["chosen"].any():
            continue
        (best,) = model[model["chosen"]].to_dict("records")
        varied = [name for name in NAMES if model[name].nunique() > 1]
        lines.append(
            (
                f"`{trainer}` {layers}N×{deepest}L" + ("" if role == "main" else f" ({role})"),
                ", ".join(_said(name, best[name]) for name in varied),
                f"{best['mean']:.4f} [{best['low']:.4f}, {best['high']:.4f}]",
                ", ".join(f"{_said(name, value)} {percent:+.1f} %" for name, value, percent in others(model)),
            )
        )
    return tables.markdown(HEAD, lines)


def _said(name: str, value: object) -> str:
    said = f"{value:g}" if isinstance(value, float) else value
    return {"residual_scale": f"scale {said}", "norm": f"{said}-norm", "learning_rate": f"rate {said}"}.get(
        name, f"{name} {said}"
    )
