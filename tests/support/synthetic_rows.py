"""Rows of models that were never trained, with effects that the tests choose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
import pyarrow as pa

from eltbench.evidence.schema import row_schema, validate
from eltbench.studies.extrapolation.study import Extrapolation

MODEL = {
    "study": "extrapolation",
    "preset": "made-up",
    "run_id": "0123456789abcdef",
    "trainer": "elt",
    "task": "diffusion",
    "dataset": "digits",
    "backend": "torch",
    "device": "cpu",
    "precision": "fp32",
    "compiled": False,
    "unique_layers": 2,
    "max_loops": 4,
    "min_loops": 1,
    "width": 64,
    "seed": 0,
    "role": "main",
    "measurement": "0123456789ab",
    "params": 1234567,
    "package_version": "0",
    "libraries": "torch==0",
    "host": "nowhere",
    "time": pd.Timestamp("2026-01-01", tz="UTC"),
}


def frame(
    rows: Iterable[Mapping[str, Any]], columns: Mapping[str, pa.DataType] = Extrapolation.columns
) -> pd.DataFrame:
    """The rows as the table of a study with these key columns, every column there and of its type."""
    completed = []
    for row in rows:
        row = {**MODEL, **row}
        loops = row.get("loops")
        completed.append({"effective_depth": None if loops is None else row["unique_layers"] * loops, **row})
    schema = row_schema(columns)
    empty = dict.fromkeys(schema.names)
    return validate(pd.DataFrame([{**empty, **row} for row in completed]), schema).to_pandas()


def losses(curve: Mapping[int, float], **model: Any) -> list[dict[str, Any]]:
    """Held-out losses by loops of one model."""
    known = {"metric": "heldout_loss", "split": "heldout", "higher_is_better": False}
    return [{**model, **known, "loops": loops, "value": value} for loops, value in curve.items()]


def distances(curve: Mapping[int, float], null_deviation: float, **model: Any) -> list[dict[str, Any]]:
    """Kernel distances by loops of one model, the floor of real images, and what two sets of those differ by."""
    rows = [{"metric": "kernel_distance", "loops": loops, "value": value} for loops, value in curve.items()]
    rows.append({"metric": "kernel_distance_of_real_images", "value": -0.01})
    rows.append({"metric": "kernel_distance_null_deviation", "value": null_deviation})
    return [{**model, **row, "feature_extractor": "digits-conv-0", "n_samples": 100} for row in rows]


def accuracies(solved: Mapping[int, int], longest: int = 6, **model: Any) -> list[dict[str, Any]]:
    """Token accuracies by loops and distance: 1 up to the distance solved at that exit, chance beyond."""
    return [
        {
            **model,
            "metric": "token_accuracy",
            "higher_is_better": True,
            "stratum": f"distance {distance}",
            "loops": loops,
            "value": 1.0 if distance <= furthest else 0.25,
        }
        for loops, furthest in solved.items()
        for distance in range(1, longest + 1)
    ]
