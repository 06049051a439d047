"""The study depth_grid: the evidence that its rows become, and what is decided from it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from grid_rows import DEDICATED, ELT_1X8, ELT_2X4, ELT_4X2, UNIQUE, curve, table
from synthetic_rows import distances

from eltbench import studies
from eltbench.evidence.claims import Cell
from eltbench.studies import deciding

STUDY = studies.create("depth_grid")
DIGITS = Cell("diffusion", "digits", "torch")
SEEDS = range(5)

# Log-ratios of five seeds to the unique-depth model's loss, wide enough that a wrong pairing would show.
EFFECTS = {
    ELT_1X8: [0.302, 0.297, 0.305, 0.299, 0.301],
    ELT_2X4: [-0.004, 0.001, 0.003, -0.002, 0.002],
    ELT_4X2: [-0.101, -0.104, -0.098, -0.103, -0.099],
    UNIQUE: [0.0] * 5,
    DEDICATED[1]: [0.9, 0.92, 0.88, 0.91, 0.89],
    DEDICATED[2]: [0.5, 0.51, 0.49, 0.52, 0.48],
    DEDICATED[4]: [0.2, 0.19, 0.21, 0.18, 0.22],
    DEDICATED[8]: [0.1, 0.11, 0.09, 0.12, 0.08],
}


def rows(effects=EFFECTS, seeds=SEEDS, **world):
    """Every model at its own depth; below it the losses are far worse, so that a wrong exit would show."""
    made = []
    for index, seed in enumerate(seeds):
        base = 0.1 * (1 + 0.37 * seed)  # seeds differ far more than effects: only pairing finds them
        for model, values in effects.items():
            loss = base * math.exp(values[index])
            *_, deepest = model
            made += curve(model, {loops: loss * (9 if loops < deepest else 1) for loops in {1, deepest}}, seed, **world)
    return made


def effect(above, below):
    """Seed by seed, the log-ratio of two models' losses."""
    return np.array(EFFECTS[above]) - np.array(EFFECTS[below])


EXPECTED = {
    "small-n": {"small-block": effect(ELT_1X8, ELT_4X2)},
    "iso-compute": {"quarter": effect(ELT_2X4, UNIQUE)},
    "iso-compute-gain": {"half": effect(ELT_4X2, UNIQUE)},
    "diminishing-loops": {
        "gain": effect(DEDICATED[1], DEDICATED[2]) - effect(DEDICATED[4], DEDICATED[8]),
        "small-block": effect(ELT_1X8, ELT_2X4),
    },
}


def decided(rows, *, smoke=False):
    return {
        decision.claim.id: decision for decision in deciding.decide_all(STUDY, table(rows), presets=None, smoke=smoke)
    }


# Evidence


def test_the_evidence_of_every_claim_is_found_seed_by_seed_at_each_models_own_depth():
    evidence = STUDY.evidence(table(rows()))
    assert set(evidence) == {claim.id for claim in STUDY.claims} == set(EXPECTED)
    for claim, conditions in EXPECTED.items():
        assert set(evidence[claim]) == {DIGITS}
        shown = evidence[claim][DIGITS]
        assert set(shown.primary) == set(conditions)
        assert not any(shown.absent.values())
        for name, effects in conditions.items():
            assert np.allclose(shown.primary[name], effects, rtol=0, atol=1e-12), (claim, name)


@pytest.mark.slow
def test_rows_in_any_order_give_the_same_evidence():
    ordered = table(rows())
    shuffled = ordered.sample(frac=1, random_state=1)
    for claim, cells in STUDY.evidence(ordered).items():
        for name, effects in cells[DIGITS].primary.items():
            assert np.array_equal(STUDY.evidence(shuffled)[claim][DIGITS].primary[name], effects)


def test_models_in_other_roles_or_of_other_sizes_are_no_evidence():
    others = {
        ("elt", "injected", 1, 8): [5.0] * 5,
        ("unique-depth", "equal-parameters", 2, 1): [6.0] * 5,
        ("elt", "main", 2, 8): [7.0] * 5,
        ("no-ilsd", "main", 2, 4): [8.0] * 5,
        ("no-ilsd", "dedicated", 1, 4): [9.0] * 5,
    }
    alone, beside = (STUDY.evidence(table(made)) for made in (rows(), rows() + rows(others)))
    for claim, conditions in EXPECTED.items():
        for name in conditions:
            assert np.array_equal(alone[claim][DIGITS].primary[name], beside[claim][DIGITS].primary[name])


@pytest.mark.slow
def test_worlds_and_widths_have_verdicts_of_their_own():
    other = {model: [2 * value for value in values] for model, values in EFFECTS.items()}
    large = {"task": "masked", "dataset": "relay", "world": "relay colours=24"}
    made = rows() + rows(other, **large) + rows(EFFECTS, width=32, **large)
    evidence = STUDY.evidence(table(made))["small-n"]
    cells = [DIGITS, *(Cell("masked", f"relay colours=24 width={width}", "torch") for width in (32, 64))]
    assert list(evidence) == cells  # widths in their order
    expected = EXPECTED["small-n"]["small-block"]
    for cell, factor in zip(cells, (1, 1, 2), strict=True):
        assert np.allclose(evidence[cell].primary["small-block"], factor * expected)


# Verdicts


def test_every_claim_is_decided_by_its_region():
    decisions = decided(rows())
    verdict = {claim: decision.verdict for claim, decision in decisions.items()}
    assert verdict == dict.fromkeys((claim.id for claim in STUDY.claims), "supported")
    worse = {**EFFECTS, ELT_4X2: EFFECTS[ELT_1X8], ELT_1X8: EFFECTS[ELT_4X2], ELT_2X4: EFFECTS[ELT_1X8]}
    worse[DEDICATED[8]] = [value - 2 for value in EFFECTS[DEDICATED[8]]]  # the last loops bring most
    verdict = {claim: decision.verdict for claim, decision in decided(rows(worse)).items()}
    assert verdict == dict.fromkeys((claim.id for claim in STUDY.claims), "contradicted")
    assert {decision.comparisons for decision in decisions.values()} == {4}


def test_a_smoke_preset_gives_no_verdict():
    assert {decision.verdict for decision in decided(rows(), smoke=True).values()} == {"inconclusive"}


def test_a_claim_whose_models_are_not_planned_is_not_measured():
    without = {model: EFFECTS[model] for model in (ELT_1X8, ELT_4X2)}
    decisions = decided(rows(without))
    assert decisions["small-n"].verdict == "supported"
    for claim in ("iso-compute", "iso-compute-gain", "diminishing-loops"):
        assert (decisions[claim].verdict, decisions[claim].reason) == ("inconclusive", "nothing measured")


@pytest.mark.parametrize(("lacking", "left"), [(DEDICATED[4], "small-block"), (ELT_2X4, "gain")])
def test_half_of_diminishing_loops_is_shown_and_gives_no_verdict(lacking, left):
    decision = decided(rows({model: values for model, values in EFFECTS.items() if model != lacking}))[
        "diminishing-loops"
    ]
    found = {entry.condition.name: entry.primary for entry in decision.cells[0].conditions}
    assert decision.verdict == "inconclusive"
    assert {name for name, entry in found.items() if entry.interval.n} == {left}
    assert found[left].verdict == "supported"


@pytest.mark.parametrize("model", [ELT_4X2, DEDICATED[8]])
def test_a_seed_that_one_side_lacks_leaves_no_verdict_and_is_named(model):
    trainer, role, layers, deepest = model
    size = {"trainer": trainer, "role": role, "unique_layers": layers, "max_loops": deepest, "seed": 3}
    failed = [row for row in rows() if any(row[name] != value for name, value in size.items())]
    affected = {"small-n", "iso-compute-gain"} if model == ELT_4X2 else {"diminishing-loops"}
    for claim, decision in decided(failed).items():
        assert ("seeds [3] lack one side" in decision.reason) == (claim in affected)
        assert (decision.verdict == "inconclusive") == (claim in affected)


@pytest.mark.slow
@pytest.mark.parametrize("broken", [None, math.nan, math.inf])
def test_a_value_that_is_not_finite_gives_no_verdict_but_a_reason_and_stops_nothing(broken):
    made = rows()
    for row in made:
        if (row["trainer"], row["unique_layers"], row["seed"], row["loops"]) == ("elt", 1, 2, 8):
            row["value"] = broken
    decisions = decided(made)
    assert "value 2 of the differences is" in decisions["small-n"].reason
    assert decisions["iso-compute"].verdict == "supported"
    assert STUDY.figure(table(made)).axes
    line = STUDY.summarise(table(made)).query("metric == 'heldout_loss' and unique_layers == 1 and loops == 8")
    assert line["mean"].isna().all()


# The second witness


def test_the_second_witness_compares_samples_at_each_models_own_depth():
    made = rows()
    for seed in SEEDS:
        for model, value in ((ELT_1X8, 1.5), (ELT_4X2, 0.25)):
            trainer, role, layers, deepest = model
            known = {"trainer": trainer, "role": role, "unique_layers": layers, "max_loops": deepest, "seed": seed}
            made += distances({1: 9.0, deepest: value + 0.01 * seed}, 0.03, world="digits", **known)
    evidence = STUDY.evidence(table(made))
    second = evidence["small-n"][DIGITS].second
    assert (second.name, second.margin) == ("kernel_distance", 0.03)
    assert np.allclose(second.effects["small-block"], [1.25] * 5)
    assert evidence["iso-compute"][DIGITS].second is None  # nothing was sampled of the other side


@pytest.mark.slow
def test_a_loss_of_zero_leaves_one_cell_open_and_names_seed_and_value():
    made = rows()
    for row in made:
        if row["seed"] == 3 and row["trainer"] == "unique-depth":
            row["value"] = 0.0
    decisions = decided(made)
    assert decisions["iso-compute"].reason == "quarter: a log-ratio needs values above zero, there are 0 in seed 3"
    assert decisions["small-n"].verdict == decided(rows())["small-n"].verdict != "inconclusive"
    STUDY.summarise(table(made))
