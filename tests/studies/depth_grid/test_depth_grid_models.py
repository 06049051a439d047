"""The study depth_grid: what it asks of which model, and the rows that it measures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eltbench import studies
from eltbench.core.config import Architecture, Optimisation, Run
from eltbench.evaluation import solving
from eltbench.evidence import results
from eltbench.evidence.schema import part_schema
from eltbench.studies.presets import Arm, Preset, World
from eltbench.training.loop import build_engine, fit, parts
from eltbench.training.model import Model

STUDY = studies.create("depth_grid")

# What is asked of which model

SHAPE = {"unique_layers": 1, "max_loops": 4, "width": 8, "heads": 2}
UNIQUE = Arm("unique-depth", "equal-compute", {"unique_layers": 4, "max_loops": 1})


WORLD = World("diffusion", "digits")


def settings(arm, world=WORLD, **measurement):
    return STUDY.settings(Preset("made-up", architecture=SHAPE, measurement=measurement), world, arm)


@pytest.mark.parametrize(
    ("arm", "exits", "timed"),
    [
        (Arm("elt"), [1, 2, 3, 4, 5, 6], [1, 2, 3, 4]),
        (Arm("universal-transformer"), [1, 2, 3, 4, 5, 6], [1, 2, 3, 4]),
        (Arm("elt", "three-loops", {"max_loops": 3}), [1, 2, 3, 4], [1, 2, 3]),  # 4.5 loops are no loop count
        (Arm("no-ilsd", "dedicated", {"max_loops": 3}), [3], [3]),
        (UNIQUE, [1], [1]),
    ],
)
def test_a_looped_model_is_asked_at_all_exits_and_some_beyond_and_a_control_at_its_own(arm, exits, timed):
    asked = settings(arm, samples=5)
    assert (asked["exits"], asked["timed_exits"]) == (exits, timed)
    assert asked["sample_loops"] == [max(timed)]  # where it was trained


def test_a_multiple_of_the_loops_is_not_lost_to_rounding():
    assert settings(Arm("elt", architecture={"max_loops": 20}), beyond=1.15)["exits"][-1] == 23  # 22.999… in floats


def test_a_worlds_measurement_wins_over_the_presets():
    world = World("diffusion", "digits", measurement={"beyond": 1, "timed_batch": 7})
    asked = settings(Arm("elt"), world, beyond=2.0, timing_rounds=3)
    assert (asked["exits"], asked["timed_batch"], asked["timing_rounds"]) == ([1, 2, 3, 4], 7, 3)
    assert asked["sample_loops"] == []


@pytest.mark.parametrize(
    ("measurement", "message"),
    [
        ({"beyond": 0.5}, "beyond must be from 1 to 16, a multiple of L_max, given 0.5"),
        ({"beyond": float("inf")}, "beyond must be from 1 to 16, a multiple of L_max, given inf"),
        ({"beyond": float("nan")}, "beyond must be from 1 to 16, a multiple of L_max, given nan"),
        ({"timed_batch": -1}, "timed_batch must be at least 0, given -1"),
        ({"timing_rounds": 0}, "timing_rounds must be at least 1, given 0"),
        ({"samples": 3}, "samples must be 0 or at least 5, given 3"),
        ({"heldout_draws": 0}, "heldout_draws must be at least 1, given 0"),
        ({"sampling": {"step": 3}}, "'step'; did you mean 'steps'?"),
        ({"sample_loops": [3]}, "unknown measurement field 'sample_loops'"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_any_training(measurement, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        settings(Arm("elt"), **measurement)


def test_two_models_that_rows_could_not_tell_apart_are_refused():
    arms = (Arm("elt"), Arm("elt", architecture={"norm": "sandwich"}))
    preset = Preset("twins", worlds=(World("diffusion", "digits"),), arms=arms, architecture=SHAPE)
    with pytest.raises(ValueError, match="could not tell apart: elt diffusion digits 1N×4L"):
        STUDY.plan(preset)


# Measuring


@pytest.fixture(scope="module")
def measured():
    """A model of each world, untrained."""
    found = {}
    for task, dataset, block in (("diffusion", "digits", "dit"), ("masked", "relay", "bert")):
        shape = Architecture(
            unique_layers=1, max_loops=2, width=8, heads=2, block=block, attention_radius=1 if block == "bert" else None
        )
        run = Run("elt", task, dataset, architecture=shape)
        made = parts(run)
        model = Model(run, build_engine(run, made), made)
        samples = {"samples": 20, "sampling": {"steps": 2}} if dataset == "digits" else {}
        preset = Preset("made-up", measurement={"heldout_draws": 2, "timed_batch": 4, "timing_rounds": 2, **samples})
        arm = Arm("elt", architecture={name: getattr(shape, name) for name in ("unique_layers", "max_loops", "block")})
        asked = STUDY.settings(preset, World(task, dataset, architecture={"width": 8, "heads": 2}), arm)
        found[dataset] = run, STUDY.measure(model, run, asked)
    return found


@pytest.mark.parametrize(
    ("dataset", "options"),
    [
        ("sudoku", {"size": 4, "puzzles": 64, "hardest": 1, "heldout_items": 24}),
        ("maze", {"rooms": 3, "longest": 4, "furthest": 6, "heldout_items": 24}),
    ],
)
def test_puzzles_are_also_counted_as_solved_at_every_exit_and_difficulty(dataset, options):
    world = World("masked", dataset, dataset_options=options)
    shape = {**SHAPE, "max_loops": 2, "block": "bert", "residual_scale": "loops"}
    preset = Preset("made-up", architecture=shape, measurement={"heldout_draws": 1, "timed_batch": 0})
    for arm, exits in ((Arm("elt"), [1, 2, 3]), (Arm("unique-depth", architecture={"max_loops": 1}), [1])):
        run, asked = preset.run(world, arm, 0), STUDY.settings(preset, world, arm)
        made = parts(run)
        model = Model(run, build_engine(run, made), made)
        found = STUDY.measure(model, run, asked)
        assert not found.failed
        rows = results.stamp(found.rows, run, "0" * 16, "0" * 12, STUDY.columns)
        shares = rows[(rows["metric"] == "solved") & rows["stratum"].isna()]
        right = solving.solved(model, made.dataset.heldout(), exits)
        assert dict(zip(shares["loops"], shares["value"], strict=True)) == dict(
            zip(exits, right.mean(axis=1), strict=True)
        )
        assert {solving.AS_TRAINED, solving.HARDER} < set(rows["stratum"])
    assert "solving" not in STUDY.settings(Preset("made-up", architecture=SHAPE), WORLD, Arm("elt"))


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["digits", "relay"])
def test_measured_rows_fit_the_schema(measured, dataset):
    run, found = measured[dataset]
    rows = results.stamp(found.rows, run, "0" * 16, "0" * 12, {**STUDY.columns})
    assert set(rows.columns) == set(part_schema(STUDY.columns).names)
    assert list(rows[rows["metric"] == "heldout_loss"]["loops"]) == [1, 2, 3]
    assert rows["value"].notna().all()


def test_images_are_sampled_where_the_model_was_trained_and_relay_is_read_by_distance(measured):
    digits, relay = (measured[name][1].rows for name in ("digits", "relay"))
    assert {row["loops"] for row in digits if row["metric"] == "kernel_distance"} == {2}
    assert {row["metric"] for row in relay} == {"heldout_loss", "token_accuracy", "reach", "call_seconds"}


def test_calls_are_timed_up_to_the_trained_depth_with_batch_and_threads(measured):
    for run, found in measured.values():
        timed = [row for row in found.rows if row["metric"] == "call_seconds"]
        assert [row["loops"] for row in timed] == [1, 2]
        assert {(row["batch_size"], row["threads"]) for row in timed} == {(4, run.threads)}
        assert all(0 < row["value"] < 60 for row in timed)


def test_the_raw_items_average_to_the_published_losses(measured):
    for _, found in measured.values():
        published = {row["loops"]: row["value"] for row in found.rows if row["metric"] == "heldout_loss"}
        for loops, group in found.tables["items"].groupby("loops"):
            assert np.average(group["loss"], weights=group["weight"]) == pytest.approx(published[loops], rel=1e-9)


# The control of equal parameters


def test_unique_layers_of_equal_number_are_the_looped_block_run_once(tmp_path):
    """So `unique-depth` of N layers and `no-ilsd` of N×1 control for one another: their losses must agree exactly."""
    shape = Architecture(unique_layers=2, max_loops=1, width=8, heads=2)
    optimisation = Optimisation(steps=3, batch_size=4)
    weights = []
    for trainer in ("unique-depth", "no-ilsd"):
        run = Run(trainer, "diffusion", "digits", architecture=shape, optimisation=optimisation)
        engine = fit(run, tmp_path / trainer)
        weights.append(dict(engine.network.state_dict()))
    assert weights[0].keys() == weights[1].keys()
    for name, weight in weights[0].items():
        assert torch.equal(weight, weights[1][name]), name
