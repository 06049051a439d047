"""Checkpoints: safetensors and a JSON description, written and read alike by every backend; nothing is unpickled.

A file holds every trained value four times, under `weights.`, `average.` and the optimiser's moments, each followed by
the value's own name, in float32. A snapshot, `snapshot-STEP.safetensors`, holds the averaged values alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from eltbench.core import atomic

MOMENTS = ("exp_avg", "exp_avg_sq")
FORMAT = "eltbench-1"
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


def check_size(directory: Path, parameters: int) -> None:
    """Raise ValueError where a checkpoint cannot be of a network of so many trained values; reads eight bytes."""
    path = directory / "checkpoint.safetensors"
    with path.open("rb") as file:
        head = int.from_bytes(file.read(8), "little")
    held, needed = path.stat().st_size - 8 - head, parameters * len(PARTS) * np.dtype(np.float32).itemsize
    if held != needed:
        raise ValueError(
            f"checkpoint {path} is damaged or does not fit this network: its configuration asks for {needed} bytes of "
            f"values, the file holds {held}"
        )


def _write(path: Path, step: int, parts: Parts) -> None:
    tensors = {f"{part}.{name}": np.ascontiguousarray(each) for part in parts for name, each in parts[part].items()}
    with atomic.replacing(path) as temporary:  # written here: the library's own file is for its owner's eyes alone
        temporary.write_bytes(save(tensors, metadata={"step": str(step), "format": FORMAT}))


def _read(path: Path, shapes: Mapping[str, tuple[int, ...]], parts: Sequence[str]) -> tuple[int, Parts]:
    try:
        with opened(path) as file:
            names = {f"{part}.{name}": tuple(shape) for name, shape in shapes.items() for part in parts}
            step = _step(file, names)
            return step, {part: {name: _values(file, f"{part}.{name}") for name in shapes} for part in parts}
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"checkpoint {path} is damaged or not eltbench's: {error}") from error


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A safetensors file; raises ValueError for a damaged one, OSError where the system cannot read it."""
    with path.open("rb"):  # by Python, which says what the system refuses; the library does not
        pass
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except (SafetensorError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(str(error)) from error


def _step(file: Any, expected: Mapping[str, tuple[int, ...]]) -> int:
    """The step of a file that holds float32 values of these shapes; ValueError for another, before any is read."""
    found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
    if odd := sorted(set(expected.items()) ^ {(name, tuple(each.get_shape())) for name, each in found.items()}):
        name, shape = odd[0]
        raise ValueError(f"it does not fit this network: {len(odd)} names or shapes differ, first {name} {shape}")
    if kinds := sorted({each.get_dtype() for each in found.values()} - {"F32"}):
        raise ValueError(f"it holds values of {', '.join(kinds)}, not F32")
    about = file.metadata() or {}
    said = about.get("step", "")
    if not re.fullmatch("0|[1-9][0-9]{0,17}", said):
        raise ValueError(f"it says no step of a training, given {said!r}")
    if about.get("format") != FORMAT:
        raise ValueError(f"its format is {about.get('format')!r}, not {FORMAT!r}")
    return int(said)


def _values(file: Any, name: str) -> np.ndarray:
    values: np.ndarray = file.get_tensor(name)
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds values that are not finite")
    if name.startswith(f"{MOMENTS[1]}.") and (values < 0).any():
        raise ValueError(f"{name}, means of squares, holds values below 0")
    return values
