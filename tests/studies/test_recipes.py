"""Models that a claim compares differ in what the claim compares alone: trainer, arm and seed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from eltbench import studies
from eltbench.studies import recipes
from eltbench.studies.presets import Arm, Preset, World, load_preset, preset_names

STUDY, GRID = studies.create("extrapolation"), studies.create("depth_grid")
PRESET = Preset(
    "mine",
    worlds=(World("diffusion", "digits"),),
    arms=(Arm("elt"), Arm("no-ilsd")),
    architecture={"unique_layers": 1, "max_loops": 2, "width": 8, "heads": 2},
    optimisation={"steps": 20},
    measurement={"heldout_draws": 1, "samples": 0, "sample_loops": (), "diagnose_loops": ()},
)


def fields(first, second, study=STUDY):
    return {each.field: (each.first, each.second) for each in recipes.differences(study, [first], [second])}


@pytest.mark.parametrize(
    ("change", "field", "values"),
    [
        ({"optimisation": {"steps": 150}}, "optimisation.steps", (20, 150)),
        ({"architecture": {**PRESET.architecture, "width": 16}}, "architecture.width", (8, 16)),
        ({"measurement": {**PRESET.measurement, "heldout_draws": 3}}, "measurement.heldout_draws", (1, 3)),
        ({"device": "cuda"}, "device", ("cpu", "cuda")),
        ({"precision": "bf16"}, "precision", ("fp32", "bf16")),
        ({"compile": True}, "compile", (False, True)),
        (
            {"worlds": (World("diffusion", "digits", task_options={"bias": -2.0}),)},
            "task_options.bias",
            (None, -2.0),
        ),
    ],
)
def test_a_field_in_which_a_world_is_treated_differently_is_named_with_both_values(change, field, values):
    found = fields(PRESET, replace(PRESET, **change))
    assert found == {field: values}


@pytest.mark.parametrize(
    "change",
    [
        {"seeds": (7, 8)},
        {"about": "other words"},
        {"arms": (Arm("universal-transformer"), Arm("elt", "cosine", trainer_options={"decay": "cosine"}))},
        {"optimisation": {"steps": 20, "schedule": "constant"}},  # a default that is spelt out
        {"worlds": (World("diffusion", "digits", optimisation={"steps": 20}),), "optimisation": {}},
    ],
)
def test_seeds_arms_words_and_defaults_make_no_difference(change):
    assert fields(PRESET, replace(PRESET, **change)) == {}


def test_a_measurement_that_reaches_further_for_a_new_arm_alone_makes_no_difference():
    near = replace(PRESET, measurement={**PRESET.measurement, "samples": 20, "sample_loops": (2,)})
    far = replace(near, measurement={**near.measurement, "sample_loops": (2, 12)})
    assert fields(near, replace(far, arms=(*PRESET.arms, Arm("deq", "long", {"max_loops": 12})))) == {}


def test_worlds_that_a_column_tells_apart_may_be_treated_in_two_ways_and_others_not():
    preset = load_preset("depth_grid", "relay-rules")
    worlds = [replace(world, optimisation={"steps": 20 + place}) for place, world in enumerate(preset.worlds)]
    assert len({(world.task, world.dataset) for world in worlds}) < len(worlds)
    preset = replace(preset, worlds=tuple(worlds))
    assert recipes.differences(GRID, [preset], [preset]) == []
    once, then = World("diffusion", "digits"), World("diffusion", "digits", optimisation={"steps": 40})
    with pytest.raises(ValueError, match=r"has diffusion digits torch twice.*optimisation.steps: once 20, then 40"):
        recipes.differences(STUDY, [replace(PRESET, worlds=(once, then))], [PRESET])


@pytest.mark.slow
@pytest.mark.parametrize("study", ["extrapolation", "depth_grid", "convergence", "disagreement"])
def test_every_packaged_preset_treats_its_worlds_in_one_way(study):
    for name in preset_names(study):
        preset = load_preset(study, name)
        if preset.device == "cpu":
            assert recipes.differences(studies.create(study), [preset], [preset]) == []


@pytest.mark.slow
def test_the_published_recipes_are_those_of_the_packaged_presets():
    for path in Path(__file__).parents[2].glob("results/*/*/provenance.json"):
        study, name = path.parts[-3:-1]
        if study != "throughput":
            published = recipes.presets_of(json.loads(path.read_text())["commands"])
            assert recipes.differences(studies.create(study), published, [load_preset(study, name)]) == [], path
