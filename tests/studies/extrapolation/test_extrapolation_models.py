"""The study extrapolation: what it asks of which model, and the rows that it measures."""

from __future__ import annotations

import re
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from eltbench import studies
from eltbench.core.config import Architecture, Run
from eltbench.evidence import results
from eltbench.evidence.schema import part_schema
from eltbench.studies.presets import Arm, Preset, World
from eltbench.tasks.masked import MaskedSampling
from eltbench.training.loop import build_engine, parts
from eltbench.training.model import Model

STUDY = studies.create("extrapolation")

# What is asked of which model


SHAPE = {"unique_layers": 1, "max_loops": 4, "width": 8, "heads": 2}
WORLD = World("diffusion", "digits")
MEASUREMENT = {
    "heldout_draws": 2,
    "sample_loops": [1, 2, 4, 12, 13],
    "samples": 20,
    "sampling": {"steps": 3},
    "diagnose_loops": [2, 12, 40],
}
PRESET = Preset("made-up", architecture=SHAPE, measurement=MEASUREMENT)
UNIQUE = Arm("unique-depth", "equal-compute", {"unique_layers": 4, "max_loops": 1})


def settings(arm, world=WORLD, **measurement):
    preset = Preset("made-up", architecture=SHAPE, measurement={**MEASUREMENT, **measurement})
    return STUDY.settings(preset, world, arm)


@pytest.mark.parametrize(
    ("arm", "exits", "sample_loops", "diagnose_loops"),
    [
        (Arm("elt"), [*range(1, 13)], [1, 2, 4, 12], [2, 12]),
        (Arm("universal-transformer"), [*range(1, 13)], [1, 2, 4, 12], [2, 12]),
        (Arm("elt", "one-layer-block", {"max_loops": 2}), [*range(1, 7)], [1, 2, 4], [2]),
        (Arm("no-ilsd", "dedicated", {"max_loops": 2}), [2], [2], []),
        (UNIQUE, [1], [1], []),
    ],
)
def test_a_model_is_asked_at_the_loop_counts_it_has(arm, exits, sample_loops, diagnose_loops):
    asked = settings(arm)
    assert asked["exits"] == exits
    assert asked["sample_loops"] == sample_loops
    assert asked["diagnose_loops"] == diagnose_loops


def test_a_control_at_a_depth_without_samples_is_sampled_at_its_own_depth():
    assert settings(Arm("no-ilsd", "dedicated", {"max_loops": 3}))["sample_loops"] == [3]
    assert settings(UNIQUE, sample_loops=[4])["sample_loops"] == [1]


def test_no_samples_are_asked_for_where_none_are_to_be_drawn():
    assert settings(Arm("elt"), samples=0)["sample_loops"] == []


def test_a_worlds_measurement_wins_over_the_presets():
    world = World("masked", "digits-codes", measurement={"sampling": {"steps": 5}, "samples": 7})
    asked = settings(Arm("elt"), world)
    assert (asked["samples"], asked["heldout_draws"]) == (7, 2)
    assert asked["sampling"] == asdict(MaskedSampling(steps=5))  # defaults included: they are part of what is measured
    (extractor,) = asked["feature_extractors"]
    assert re.fullmatch(r"digits-conv-[0-9a-f]{8}", extractor)  # the very weights


def test_loop_counts_that_a_looped_model_does_not_have_are_refused():
    with pytest.raises(ValueError, match=r"none of sample_loops .*20.* is among the exits"):
        settings(Arm("elt"), sample_loops=[20])


@pytest.mark.parametrize("study", ["extrapolation", "depth_grid", "convergence"])
def test_guidance_takes_labels_that_were_dropped_in_training(study):
    preset = Preset(
        "made-up",
        seeds=(0,),
        worlds=(WORLD,),
        arms=(Arm("elt"),),
        architecture=SHAPE,
        optimisation={"label_dropout": 0.0, "snapshot_every": 100},
        measurement={"samples": 20, "sampling": {"guidance_scale": 2.0}},
    )
    with pytest.raises(ValueError, match=r"guidance_scale is 2, .* label_dropout = 0; .* measurement.samples = 0"):
        studies.create(study).plan(preset)
    studies.create(study).plan(replace(preset, measurement={"samples": 0, "sampling": {"guidance_scale": 2.0}}))


def test_loop_counts_that_nobody_runs_are_refused_before_they_are_listed():
    with pytest.raises(ValueError, match="max_loops must be at most 1024, given 10000"):
        settings(Arm("elt", architecture={"max_loops": 10**4}))
    preset = Preset("made-up", architecture=SHAPE, measurement={"beyond": 1e9})
    with pytest.raises(ValueError, match=r"beyond must be from 1 to 16, .* given 1000000000"):
        studies.create("depth_grid").settings(preset, WORLD, Arm("elt"))


def test_what_an_odd_number_of_loops_leaves_open_is_said_before_any_training():
    def asked(*arms):
        return STUDY.open_questions(STUDY.plan(replace(PRESET, seeds=(0,), worlds=(WORLD,), arms=arms)))

    assert asked(Arm("elt"), Arm("no-ilsd"), Arm("no-ilsd", "dedicated", {"max_loops": 3})) == {}
    three = {"max_loops": 3}
    found = asked(Arm("elt", architecture=three), Arm("no-ilsd"))
    assert set(found) == {"elastic", "modest-extrapolation"}
    assert found["elastic"] == ("0.5 times the L_max = 3 of elt is no loop count; an even max_loops can be asked")
    assert set(asked(Arm("elt"), Arm("no-ilsd", architecture=three))) == {"vanilla-collapse"}


def test_the_settings_do_not_depend_on_the_seed_and_name_one_measurement():
    preset = Preset("made-up", seeds=(0, 5), worlds=(WORLD,), arms=(Arm("elt"),), architecture=SHAPE)
    first, second = STUDY.plan(preset)
    assert first.digest == second.digest
    assert first.run_id != second.run_id


# Measuring


def model_of(task, dataset, **architecture):
    """A model whose weights are random throughout, so that every exit differs."""
    shape = Architecture(unique_layers=1, max_loops=2, width=8, heads=2, **architecture)
    run = Run("elt", task, dataset, architecture=shape)
    made = parts(run)
    engine = build_engine(run, made)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in engine.average.module.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
    return Model(run, engine, made)


@pytest.fixture(scope="module")
def measured():
    asked = {"exits": [1, 2, 3], "heldout_draws": 2, "sampling": {"steps": 2}, "feature_extractors": ["digits-conv"]}
    images = {"sample_loops": [1, 3], "samples": 20, "diagnose_loops": [2]}
    no_images = {"sample_loops": [1, 3], "samples": 20, "diagnose_loops": []}
    found = {}
    for name, task, settings in (("digits", "diffusion", images), ("relay", "masked", no_images)):
        model = model_of(task, name, block="dit" if task == "diffusion" else "bert")
        found[name] = (model.run, STUDY.measure(model, model.run, asked | settings))
    return found


def completed(measured, dataset):
    run, found = measured[dataset]
    return results.stamp(found.rows, run, "0" * 16, "0" * 12, STUDY.columns)


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["digits", "relay"])
def test_measured_rows_fit_the_schema(measured, dataset):
    rows = completed(measured, dataset)
    assert set(rows.columns) == set(part_schema(STUDY.columns).names)
    assert rows["split"].eq("heldout").all()
    assert list(rows[rows["metric"] == "heldout_loss"]["loops"]) == [1, 2, 3]
    assert rows["value"].notna().all()


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["digits", "relay"])
def test_the_raw_items_average_to_the_published_losses(measured, dataset):
    _, found = measured[dataset]
    items = found.tables["items"]
    draws, heldout = (2, 357) if dataset == "digits" else (1, 512)  # relay says itself what is hidden
    assert len(items) == 3 * draws * heldout
    assert not items.duplicated(["loops", "draw", "item"]).any()
    published = {row["loops"]: row["value"] for row in found.rows if row["metric"] == "heldout_loss"}
    for loops, group in items.groupby("loops"):
        assert np.average(group["loss"], weights=group["weight"]) == pytest.approx(published[loops], rel=1e-9)
    assert len(set(published.values())) == 3


@pytest.mark.slow
def test_images_are_sampled_and_diagnosed_and_relay_is_read_by_distance(measured):
    digits, relay = completed(measured, "digits"), completed(measured, "relay")
    assert {"kernel_distance", "spectral_radius", "late_update_norm", "relative_update_norm"} <= set(digits["metric"])
    assert set(digits[digits["metric"] == "late_update_norm"]["stratum"]) == {f"noise quarter {q}" for q in range(4)}
    assert set(relay["metric"]) == {"heldout_loss", "token_accuracy"}
    accuracy = relay[relay["metric"] == "token_accuracy"]
    assert list(accuracy[accuracy["loops"] == 2]["stratum"]) == [f"distance {d}" for d in range(1, 16)]
    assert accuracy["higher_is_better"].all()


def test_the_theorems_line_is_measured_where_attention_has_a_radius(measured):
    assert "reach" not in set(completed(measured, "relay")["metric"])
    asked = {"exits": [1, 3], "heldout_draws": 1, "samples": 0, "sample_loops": [], "diagnose_loops": []}
    model = model_of("masked", "relay", block="bert", attention_radius=2)
    rows = STUDY.measure(model, model.run, asked).rows
    assert {row["loops"]: row["value"] for row in rows if row["metric"] == "reach"} == {1: 2.0, 3: 6.0}
