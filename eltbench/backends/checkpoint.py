"""Checkpoints: safetensors and a JSON description, written and read alike by every backend; nothing is unpickled.

A file holds every trained value four times, under `weights.`, `average.` and the optimiser's moments, each followed by
the value's own name, in float32. A snapshot, `snapshot-STEP.safetensors`, holds the averaged values alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from eltbench import atomic

MOMENTS = ("exp_avg", "exp_avg_sq")
PARTS = ("weights", "average", *MOMENTS)

Parts = Mapping[str, Mapping[str, np.ndarray]]
"""Arrays by part and then by the name of the trained value."""


def write(directory: Path, step: int, run: Mapping[str, Any], parts: Parts) -> None:
    """Write the checkpoint of a run (`Run.to_dict`) after `step` steps, atomically: all or nothing is visible."""
    description = {"run": run, "parameters": sum(array.size for array in parts["weights"].values())}
    # The description is the same at every step and comes first: where there are weights, it is there.
    atomic.write_text(directory / "checkpoint.json", json.dumps(description, indent=1, sort_keys=True))
    _write(directory / "checkpoint.safetensors", step, parts)


def read(directory: Path, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, Parts]:
    """The step and the arrays of a checkpoint of the network whose values have these shapes.

    Raises ValueError for a file that is damaged, not eltbench's, or of another network.
    """
    return _read(directory / "checkpoint.safetensors", shapes, PARTS)


def snapshot_name(step: int) -> str:
    """The file that keeps the averaged weights after `step` steps."""
    return f"snapshot-{step}.safetensors"


def write_snapshot(directory: Path, step: int, average: Mapping[str, np.ndarray]) -> None:
    """Write the averaged weights after `step` steps, atomically."""
    _write(directory / snapshot_name(step), step, {"average": average})


def read_snapshot(directory: Path, step: int, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, np.ndarray]:
    """The averaged weights of a snapshot by name; raises ValueError as `read` does, and for one of another step."""
    path = directory / snapshot_name(step)
    found, parts = _read(path, shapes, ("average",))
    if found != step:
        raise ValueError(f"checkpoint {path} is damaged or not eltbench's: it holds step {found}")
    return parts["average"]


def _write(path: Path, step: int, parts: Parts) -> None:
    tensors = {f"{part}.{name}": np.ascontiguousarray(each) for part in parts for name, each in parts[part].items()}
    with atomic.replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"step": str(step), "format": "eltbench-1"})


def _read(path: Path, shapes: Mapping[str, tuple[int, ...]], parts: Sequence[str]) -> tuple[int, Parts]:
    try:
        with safe_open(path, framework="numpy") as file:
            step = int((file.metadata() or {})["step"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ValueError(f"checkpoint {path} is damaged or not eltbench's: {error}") from error
    expected = {(f"{part}.{name}", tuple(shape)) for name, shape in shapes.items() for part in parts}
    if odd := sorted(expected ^ {(name, tensor.shape) for name, tensor in tensors.items()}):
        name, shape = odd[0]
        raise ValueError(
            f"checkpoint {path} does not fit this network: {len(odd)} names or shapes differ, first {name} {shape}"
        )
    return step, {part: {name: tensors[f"{part}.{name}"] for name in shapes} for part in parts}
