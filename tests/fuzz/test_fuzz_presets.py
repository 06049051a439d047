"""Presets of strangers: every mutation is planned or refused with ValueError, what the form forbids is refused."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path

import pytest
from judging import TRAPS, bounded, drawn, tried, watched
from mutations import GONE, as_toml, damaged, edited, nested, shaken

from eltbench import studies
from eltbench.studies.presets import load_preset, load_table
from eltbench.studies.throughput.cell_groups import preset_from_table

FOLDER = Path(__file__).parents[2] / "studies"
FILES = {path.stem: path.read_bytes() for path in sorted(FOLDER.glob("*.toml"))}
SMOKE = {study: {"mine": tomllib.loads(text.decode())["smoke"]} for study, text in FILES.items()}

A = ("mine", "architecture")
O = ("mine", "optimisation")  # noqa: E741
M = ("mine", "measurement")
FORBIDDEN = {
    "name is a path upwards": (("mine", "name"), "../../x"),
    "name is absolute": (("mine", "name"), "/tmp/x"),
    "name is this folder": (("mine", "name"), "."),
    "name is empty": (("mine", "name"), ""),
    "name is no text": (("mine", "name"), 3),
    "name holds an escape": (("mine", "name"), "a\x1b[2J"),
    "extends is a number": (("mine", "extends"), 3),
    "extends names nothing": (("mine", "extends"), "yours"),
    "extends itself": (("mine", "extends"), "mine"),
    "an unknown field": (("mine", "sede"), 3),
    "worlds is a number": (("mine", "worlds"), 3),
    "worlds holds a text": (("mine", "worlds"), ["digits"]),
    "an arm has no trainer": (("mine", "arms", 0, "trainer"), GONE),
    "arms is a table": (("mine", "arms"), {"trainer": "elt"}),
    "unknown trainer": (("mine", "arms", 0, "trainer"), "etl"),
    "unknown task": (("mine", "worlds", 0, "task"), "difusion"),
    "unknown dataset": (("mine", "worlds", 0, "dataset"), "digit"),
    "task of another kind of data": (("mine", "worlds", 0, "dataset"), "relay"),
    "unknown option of the trainer": (("mine", "arms", 0, "trainer_options"), {"decey": "linear"}),
    "unknown value of an option": (("mine", "arms", 0, "trainer_options"), {"decay": "linaer"}),
    "backend": (("mine", "backend"), "troch"),
    "precision": (("mine", "precision"), "fp8"),
    "threads 0": (("mine", "threads"), 0),
    "devices 0": (("mine", "devices"), 0),
    "seeds below 0": (("mine", "seeds"), [-1]),
    "seeds are no integers": (("mine", "seeds"), [1.5]),
    "seeds is a text": (("mine", "seeds"), "0:3"),
    "unique_layers true": ((*A, "unique_layers"), True),
    "unique_layers 0": ((*A, "unique_layers"), 0),
    "max_loops of ten million": ((*A, "max_loops"), 10_000_000),
    "max_loops 2.5": ((*A, "max_loops"), 2.5),
    "min_loops above max_loops": ((*A, "min_loops"), 9),
    "width 0": ((*A, "width"), 0),
    "width not of heads": ((*A, "width"), 18),
    "width as text": ((*A, "width"), "16"),
    "block": ((*A, "block"), "dti"),
    "dropout 1": ((*A, "dropout"), 1.0),
    "dropout nan": ((*A, "dropout"), math.nan),
    "unknown field of the architecture": ((*A, "witdh"), 16),
    "attention_radius below 0": ((*A, "attention_radius"), -1),
    "steps 0": ((*O, "steps"), 0),
    "steps 1.5": ((*O, "steps"), 1.5),
    "steps true": ((*O, "steps"), True),
    "batch_size 0": ((*O, "batch_size"), 0),
    "learning_rate nan": ((*O, "learning_rate"), math.nan),
    "learning_rate inf": ((*O, "learning_rate"), math.inf),
    "learning_rate below 0": ((*O, "learning_rate"), -1e-3),
    "learning_rate as text": ((*O, "learning_rate"), "fast"),
    "ema_decay 1.5": ((*O, "ema_decay"), 1.5),
    "label_dropout 2": ((*O, "label_dropout"), 2.0),
    "betas of three": ((*O, "betas"), [0.9, 0.9, 0.9]),
    "gradient_clip nan": ((*O, "gradient_clip"), math.nan),
    "schedule": ((*O, "schedule"), "cosin"),
    "unknown field of the measurement": ((*M, "sample_lops"), [1]),
    "heldout_draws 0": ((*M, "heldout_draws"), 0),
    "sample_loops 0": ((*M, "sample_loops"), [0]),
    "samples below 0": ((*M, "samples"), -1),
    "sampling steps 0": ((*M, "sampling"), {"steps": 0}),
    "sampling is a number": ((*M, "sampling"), 3),
    "guidance nan": ((*M, "sampling"), {"steps": 2, "guidance_scale": math.nan}),
    **{f"{part} {trap}": (place, trap) for trap in TRAPS for part, place in (
        ("trainer", ("mine", "arms", 0, "trainer")),
        ("task", ("mine", "worlds", 0, "task")),
        ("dataset", ("mine", "worlds", 0, "dataset")),
    )},
}  # fmt: skip


def planned(study: str, path: Path) -> None:
    """All that a command does before the first training."""
    if study == "throughput":
        preset_from_table(*load_table(study, f"{path}:mine"))
    else:
        for job in studies.create(study).plan(load_preset(study, f"{path}:mine")):
            assert job.run_id


@pytest.mark.parametrize("study", SMOKE)
def test_what_the_forbidden_edits_start_from_is_accepted(place, study):
    (place / "preset.toml").write_bytes(as_toml(SMOKE[study]))
    with watched(place):
        planned(study, place / "preset.toml")


@pytest.mark.parametrize("label", FORBIDDEN)
def test_what_the_form_of_a_preset_forbids_is_refused(place, label):
    path, value = FORBIDDEN[label]
    (place / "preset.toml").write_bytes(as_toml(edited(SMOKE["extrapolation"], path, value)))
    with watched(place), bounded(), pytest.raises(ValueError):  # noqa: PT011
        planned("extrapolation", place / "preset.toml")


@pytest.mark.parametrize("content", [nested(100_000)[1].encode(), b"\xff", b"mine = 3", b"", b"[mine]\nx = \x00"])
def test_what_is_no_preset_file_is_refused(place, content):
    (place / "preset.toml").write_bytes(content)
    with watched(place), bounded(), pytest.raises(ValueError):  # noqa: PT011
        planned("extrapolation", place / "preset.toml")


@pytest.mark.slow
@pytest.mark.parametrize("study", SMOKE)
def test_any_structure_is_planned_or_refused(place, study):
    def cases():
        for name, random in drawn(f"structure of {study}", 30):
            (place / "preset.toml").write_bytes(as_toml(shaken(SMOKE[study], random)))
            yield name, lambda: planned(study, place / "preset.toml")

    tried(cases(), place)


@pytest.mark.parametrize("study", SMOKE)
def test_any_bytes_are_planned_or_refused(place, study):
    def cases():
        for name, random in drawn(f"bytes of {study}", 15):
            (place / "preset.toml").write_bytes(damaged(as_toml(SMOKE[study]), random))
            yield name, lambda: planned(study, place / "preset.toml")

    tried(cases(), place)
