"""Checkpoints of strangers: a model loads as it was trained, or is refused; no class that it names is imported."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from judging import TRAPS, bounded, drawn, tried, watched
from mutations import GONE, as_json, damaged, edited, nested, shaken
from safetensors.numpy import load_file, save_file
from start import TRAINED

from eltbench import load_model
from eltbench.execution.store import WEIGHTS
from eltbench.training.identity import run_id

ABOUT = "checkpoint.json"
NAME = run_id(TRAINED["digits"])
STEP = {"step": "2", "format": "eltbench-1"}


@pytest.fixture
def folder(place, trained) -> Path:
    """A copy of one trained run."""
    return shutil.copytree(trained.directory(NAME), place / "theirs" / NAME)


def forged(folder: Path) -> None:
    """Let done.json say that the files are those that were written."""
    record = json.loads((folder / "done.json").read_bytes())
    for name in record["checkpoint"]:
        content = (folder / name).read_bytes()
        record["checkpoint"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (folder / "done.json").write_text(json.dumps(record))


def tensors(change: Callable[[dict[str, np.ndarray]], object], metadata: dict[str, str] = STEP):
    """Other tensors in a sound file."""

    def make(folder: Path) -> None:
        found = load_file(folder / WEIGHTS)
        change(found)
        save_file(found, folder / WEIGHTS, metadata=metadata)

    return make


def every(function: Callable[[np.ndarray], np.ndarray]):
    """Every tensor changed."""
    return lambda found: found.update({name: np.ascontiguousarray(function(each)) for name, each in found.items()})


def one(value: float, part: str = "average"):
    """One number of one tensor."""

    def change(found: dict[str, np.ndarray]) -> None:
        name = next(name for name in found if name.startswith(f"{part}."))
        found[name] = found[name].copy()
        found[name].flat[0] = value

    return change


def config(path: tuple[object, ...], value: object):
    """Another value in the description."""
    return lambda folder: (folder / ABOUT).write_bytes(
        as_json(edited(json.loads((folder / ABOUT).read_bytes()), path, value))
    )


FORBIDDEN = {
    "NaN weights": tensors(every(lambda it: np.full_like(it, math.nan))),
    "one NaN": tensors(one(math.nan)),
    "one infinity": tensors(one(math.inf)),
    "integer weights": tensors(every(lambda it: it.astype(np.int32))),
    "bool weights": tensors(every(lambda it: it > 0)),
    "half precision": tensors(every(lambda it: it.astype(np.float16))),
    "another shape": tensors(every(lambda it: it[None])),
    "a tensor gone": tensors(lambda found: found.pop(next(iter(found)))),
    "no tensors": tensors(lambda found: found.clear()),
    "not trained to its end": tensors(lambda found: None, {**STEP, "step": "1"}),
    "a step below 0": tensors(lambda found: None, {**STEP, "step": "-2"}),
    "a step in words": tensors(lambda found: None, {**STEP, "step": "two"}),
    "no step": tensors(lambda found: None, {"format": "eltbench-1"}),
    "another format": tensors(lambda found: None, {**STEP, "format": "pickle"}),
    "a header without end": lambda folder: (folder / WEIGHTS).write_bytes(b"\xff" * 8 + b"{}"),
    "no file": lambda folder: (folder / WEIGHTS).write_bytes(b""),
    "a million layers": config(("run", "architecture", "unique_layers"), 10**6),
    "a width of 10⁹": config(("run", "architecture", "width"), 10**9),
    "loops of 10⁹": config(("run", "architecture", "max_loops"), 10**9),
    "layers true": config(("run", "architecture", "unique_layers"), True),
    "an unknown field": config(("run", "sede"), 1),
    "no run": config(("run",), GONE),
    "a run that is a list": config(("run",), []),
    "a backend that is none": config(("run", "backend"), "os"),
    "a device that is none": config(("run", "device"), "cudda"),
    "deep JSON": lambda folder: (folder / ABOUT).write_text(nested(100_000)[0]),
    "deep JSON in the run": lambda folder: (folder / ABOUT).write_text(f'{{"run": {nested(100_000)[0]}}}'),
    "no JSON": lambda folder: (folder / ABOUT).write_bytes(b"\xff\xfe"),
    **{
        f"{part} {trap}": config(("run", part), trap)
        for part in ("trainer", "task", "dataset", "backend")
        for trap in TRAPS
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("label", FORBIDDEN)
@pytest.mark.parametrize("record", ["forged", "gone"])
def test_what_no_checkpoint_may_hold_is_refused(place, folder, label, record):
    FORBIDDEN[label](folder)
    forged(folder) if record == "forged" else (folder / "done.json").unlink()
    with watched(place), bounded(), pytest.raises(ValueError):  # noqa: PT011
        load_model(folder, device=None)


@pytest.mark.parametrize("name", [WEIGHTS, ABOUT])
def test_a_file_that_is_not_the_one_that_was_written_is_refused(place, folder, name):
    content, taken = (folder / name).read_bytes(), []

    def cases():
        for label, random in drawn(f"damage to {name}", 40):
            changed = damaged(content, random)
            if changed == content:
                continue
            (folder / name).write_bytes(changed)

            def load(label=label):
                load_model(folder)
                taken.append(label)

            yield label, load

    tried(cases(), place)
    assert taken == []


def test_any_description_is_loaded_or_refused(place, folder):
    about = json.loads((folder / ABOUT).read_bytes())

    def cases():
        for label, random in drawn("description", 60):
            (folder / ABOUT).write_bytes(as_json(shaken(about, random)))
            forged(folder)
            yield label, lambda: load_model(folder)

    tried(cases(), place)


def test_a_sound_checkpoint_loads(place, folder):
    with watched(place), bounded():
        assert load_model(folder).run == TRAINED["digits"]
