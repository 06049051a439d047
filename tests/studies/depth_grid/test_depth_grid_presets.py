"""The presets of the study depth_grid: which models they plan, and which of them extrapolation has trained already."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from eltbench import studies
from eltbench.studies.presets import load_preset, preset_names

STUDY = studies.create("depth_grid")
NAMES = preset_names("depth_grid")


def planned(study, name):
    return studies.create(study).plan(load_preset(study, name))


def kinds(jobs):
    shapes = [(job.run.trainer, job.run.architecture, job.keys["role"]) for job in jobs]
    return {(trainer, role, shape.unique_layers, shape.max_loops) for trainer, shape, role in shapes}


def test_the_presets_are_those_that_the_study_promises():
    assert NAMES == [
        "smoke",
        "quick",
        "digits",
        "relay",
        "relay-rules",
        "relay-longer",
        "toggles",
        "rectangle",
        "widths",
        "sudoku",
    ]
    assert [name for name in NAMES if load_preset("depth_grid", name).smoke] == ["smoke"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_preset_plans_every_arm_in_every_size_that_it_leaves_open(name):
    preset, jobs = load_preset("depth_grid", name), planned("depth_grid", name)
    assert len(jobs) == len(preset.worlds) * len(preset.sized_arms()) * len(preset.seeds)
    assert len({(job.run_id, job.keys["role"]) for job in jobs}) == len(jobs)
    assert preset.about


@pytest.mark.parametrize("name", ["smoke", "digits", "relay", "toggles", "sudoku"])
def test_a_preset_of_all_claims_holds_every_model_that_they_compare(name):
    compared = {("elt", "main", n, 8 // n) for n in (1, 2, 4)}
    compared |= {("no-ilsd", "dedicated", 2, loops) for loops in (1, 2, 4, 8)}
    compared |= {("unique-depth", "equal-compute", 8, 1)}
    assert compared <= kinds(planned("depth_grid", name))


@pytest.mark.parametrize(
    ("name", "theirs", "shared", "new"),
    [
        ("quick", "quick", 3, 9),
        ("digits", "digits", 50, 40),
        ("relay", "relay", 25, 65),
        ("toggles", "digits-toggles", 25, 80),
        ("widths", "digits", 6, 30),
        ("sudoku", "sudoku", 35, 45),  # all of 1 to 8 unique layers at the scale of layers of their own
    ],
)
def test_a_model_that_extrapolation_trains_too_is_the_very_same_run(name, theirs, shared, new):
    ours = {job.run_id: job.run for job in planned("depth_grid", name)}
    known = {job.run_id: job.run for job in planned("extrapolation", theirs)}
    assert len(ours.keys() & known.keys()) == shared
    assert len(ours.keys() - known.keys()) == new
    for run_id in ours.keys() & known.keys():
        assert ours[run_id] == known[run_id]


def test_toggles_varies_one_thing_at_a_time_at_every_size_as_extrapolation_does_at_one():
    changed: dict[str, set[str]] = {}
    jobs = planned("depth_grid", "toggles")
    for job in jobs:
        if job.run.trainer == "elt":
            shape = job.run.architecture
            (plain,) = {
                other.run.architecture
                for other in jobs
                if (other.run.trainer, other.keys["role"]) == ("elt", "main")
                and (other.run.architecture.unique_layers, other.run.architecture.max_loops)
                == (shape.unique_layers, shape.max_loops)
            }
            names = {name for name, value in asdict(shape).items() if value != getattr(plain, name)}
            changed.setdefault(job.keys["role"], set()).update(names)
    assert changed == {
        "main": set(),
        "input-injection": {"input_injection"},
        "sandwich-norm": {"norm"},
        "loop-embedding": {"loop_embedding"},
        "loop-adapters": {"loop_adapter_rank"},
    }


def test_relay_longer_is_the_larger_rule_of_relay_rules_with_nothing_changed_but_the_steps():
    larger = [job for job in planned("depth_grid", "relay-rules") if dict(job.run.dataset_options)["gates"] == 16]
    longer = {job.run: job.settings for job in planned("depth_grid", "relay-longer")}
    assert {run.optimisation.steps for run in longer} == {4000}
    assert longer == {
        replace(job.run, optimisation=replace(job.run.optimisation, steps=4000)): job.settings for job in larger
    }
    assert len(larger) == 20


def test_worlds_of_one_dataset_are_told_apart_by_what_differs():
    assert {job.keys["world"] for job in planned("depth_grid", "relay")} == {"relay", "relay colours=24 gates=24"}
    assert {job.keys["world"] for job in planned("depth_grid", "widths")} == {"digits"}
