"""How a preset is put together, narrowed and named."""

from __future__ import annotations

from dataclasses import replace

import pytest
from preset_files import SMALLEST, STUDY, refused

from eltbench import studies
from eltbench.studies.presets import Arm, load_preset, preset_names

# How a preset is put together


def test_extends_merges_tables_key_by_key_and_replaces_the_rest(written):
    text = SMALLEST.format(name="small") + (
        '\n[large]\nextends = "small"\nseeds = [4, 7]\narchitecture = { width = 16 }\n'
        'arms = [{ trainer = "no-ilsd" }]\noptimisation = { steps = 5 }\n'
        '\n[larger]\nextends = "large"\narchitecture = { heads = 4 }\n'
    )
    small, large, larger = (load_preset("extrapolation", written(text, name)) for name in ("small", "large", "larger"))
    assert large.architecture == {**small.architecture, "width": 16}
    assert larger.architecture == {**small.architecture, "width": 16, "heads": 4}
    assert large.optimisation == {"steps": 5}
    assert (small.seeds, large.seeds) == ((0, 1, 2), (4, 7))
    assert [arm.trainer for arm in large.arms] == ["no-ilsd"]
    assert large.worlds == small.worlds
    assert (small.name, larger.name) == ("small", "larger")


def test_an_arm_wins_over_its_world_and_a_world_over_the_preset(written):
    preset = load_preset(
        "extrapolation",
        written("""
[mine]
architecture = { width = 8, heads = 2, max_loops = 2, unique_layers = 1 }
optimisation = { steps = 3, batch_size = 4 }
arms = [{ trainer = "elt", architecture = { max_loops = 5 } }]

[[mine.worlds]]
task = "diffusion"
dataset = "digits"
architecture = { width = 16, max_loops = 3 }
optimisation = { steps = 7 }
"""),
    )
    run = preset.run(preset.worlds[0], preset.arms[0], seed=2)
    shape = run.architecture
    assert (shape.unique_layers, shape.width, shape.max_loops) == (1, 16, 5)
    assert (run.optimisation.steps, run.optimisation.batch_size, run.seed) == (7, 4, 2)


def test_a_number_of_seeds_means_the_first_ones_and_twins_count_once(written):
    for given, seeds in (("2", (0, 1)), ("[3, 1, 3]", (3, 1))):
        preset = load_preset("extrapolation", written(SMALLEST.format(name="mine") + f"seeds = {given}"))
        assert preset.seeds == seeds


def test_a_file_with_one_preset_needs_no_name_and_a_file_with_several_does(written):
    one = SMALLEST.format(name="mine")
    assert load_preset("extrapolation", written(one)) == load_preset("extrapolation", written(one, "mine"))
    several = one + SMALLEST.format(name="other")
    message = refused(written(several))
    assert "holds ['mine', 'other']; name one as" in message
    assert "mine.toml:NAME" in message
    assert load_preset("extrapolation", written(several, "other")).name == "other"


# Narrowing


def test_narrowing_keeps_the_named_tasks_trainers_and_seeds_with_their_controls():
    preset = load_preset("extrapolation", "digits")
    narrowed = preset.narrowed(tasks=("masked",), trainers=("elt", "no-ilsd"), seeds=(9,))
    assert [world.task for world in narrowed.worlds] == ["masked"]
    assert [arm.role for arm in narrowed.arms] == ["main", "main", "dedicated", "dedicated"]
    assert narrowed.seeds == (9,)
    assert preset.narrowed() == preset


def test_plus_adds_a_trainer_to_the_presets_own():
    preset = load_preset("extrapolation", "quick")
    added = preset.narrowed(trainers=("+universal-transformer",))
    assert added.arms == (*preset.arms, Arm("universal-transformer"))
    alone = preset.narrowed(trainers=("elt", "+universal-transformer"))
    assert [arm.trainer for arm in alone.arms] == ["elt", "universal-transformer"]


def test_an_added_trainer_brings_what_its_network_needs_unless_the_preset_says_otherwise():
    preset = load_preset("extrapolation", "smoke")
    (world, *_), injected = preset.worlds, {"input_injection": True}
    (added,) = preset.narrowed(trainers=("+deq",)).arms[len(preset.arms) :]
    assert preset.run(world, added, 0).architecture.input_injection
    for arm in preset.arms:
        assert not preset.run(world, arm, 0).architecture.input_injection
    refused = {"input_injection": False}
    assert not replace(preset, architecture=refused).run(world, added, 0).architecture.input_injection
    assert not preset.run(replace(world, architecture=refused), added, 0).architecture.input_injection
    assert preset.run(replace(world, architecture=refused), Arm("deq", architecture=injected), 0).architecture == (
        preset.run(world, added, 0).architecture
    )
    STUDY.plan(preset.narrowed(trainers=("+deq",)))  # in every world, near-sighted ones too


@pytest.mark.slow
@pytest.mark.parametrize("study", ["extrapolation", "depth_grid", "convergence", "disagreement"])
def test_no_two_runs_of_a_packaged_preset_have_one_name(study):
    for name in preset_names(study):
        preset = load_preset(study, name)
        jobs = [job for of in (preset, replace(preset, backend="jax")) for job in studies.create(study).plan(of)]
        assert len({job.name for job in jobs}) == len({job.run_id for job in jobs})


def test_a_name_says_what_sets_relay_worlds_and_widths_apart():
    relay = {job.model for job in studies.create("depth_grid").plan(load_preset("depth_grid", "relay"))}
    assert "elt masked relay 2N×4L block=bert attention_radius=1" in relay
    assert "elt masked relay (colours=24 gates=24) 2N×4L block=bert attention_radius=1" in relay
    widths = {job.model for job in studies.create("depth_grid").plan(load_preset("depth_grid", "widths"))}
    assert {f"elt diffusion digits 2N×4L{width}" for width in (" width=32", "", " width=128")} <= widths
