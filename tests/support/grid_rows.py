"""Rows of a depth grid that was never trained, with losses that the tests choose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
from synthetic_rows import frame, losses

from eltbench.studies.depth_grid.study import DepthGrid

Model = tuple[str, str, int, int]
"""Trainer, role, N and L_max."""

ELT_1X8, ELT_2X4, ELT_4X2 = (("elt", "main", n, 8 // n) for n in (1, 2, 4))
UNIQUE = ("unique-depth", "equal-compute", 8, 1)
DEDICATED = {loops: ("no-ilsd", "dedicated", 2, loops) for loops in (1, 2, 4, 8)}


def curve(model: Model, by_loops: Mapping[int, Any], seed: int = 0, **world: Any) -> list[dict[str, Any]]:
    """Held-out losses of one model by loops; its MACs are its effective depth, its parameters its layers."""
    trainer, role, layers, deepest = model
    known = {"world": world.get("dataset", "digits"), "trainer": trainer, "role": role, "seed": seed, "params": layers}
    rows = losses(by_loops, unique_layers=layers, max_loops=deepest, **known | world)
    return [{**row, "macs": layers * row["loops"]} for row in rows]


def seconds(model: Model, by_loops: Mapping[int, float], seed: int = 0, **world: Any) -> list[dict[str, Any]]:
    """Timed calls of one model by loops."""
    return [
        {**row, "metric": "call_seconds", "threads": 1, "batch_size": 128}
        for row in curve(model, by_loops, seed, **world)
    ]


def table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """The rows as the study's table."""
    return frame(({"study": "depth_grid", **row} for row in rows), DepthGrid.columns)
