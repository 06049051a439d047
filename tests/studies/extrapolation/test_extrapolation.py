"""The study extrapolation: the evidence that its rows become, and what is decided from it."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from synthetic_rows import distances, frame, losses

from eltbench import studies
from eltbench.evidence.claims import Cell
from eltbench.studies import deciding
from eltbench.studies.extrapolation.claims import CLAIMS

STUDY = studies.create("extrapolation")
DIGITS, RELAY = Cell("diffusion", "digits", "torch"), Cell("masked", "relay", "torch")
SEEDS = range(5)

# Effects of five seeds, wide enough that two of them in the wrong order would show.
NEAR_ZERO = [-0.004, 0.001, 0.003, -0.002, 0.002]
BETTER = [-0.101, -0.104, -0.098, -0.103, -0.099]
WORSE = [0.302, 0.297, 0.305, 0.299, 0.301]
MIXED = [0.3, -0.2, 0.1, -0.25, 0.2]


def curves(seeds=SEEDS, *, elt=(), no_ilsd=(), max_loops=4, noise=None, **world):
    """Rows of elt and no-ilsd; effects by multiple of L_max are log-ratios to the model's own loss there.

    The effect of `no_ilsd` at 1 is its log-ratio to elt.
    """
    rows = []
    for index, seed in enumerate(seeds):
        base = 0.1 * (1 + 0.37 * seed)  # seeds differ far more than effects: only pairing finds them
        at_max = {"elt": base, "no-ilsd": base * math.exp(dict(no_ilsd).get(1, [0] * 9)[index])}
        for trainer, effects in (("elt", dict(elt)), ("no-ilsd", dict(no_ilsd))):
            curve = {int(m * max_loops): at_max[trainer] * math.exp(e[index]) for m, e in effects.items() if m != 1}
            if effects:
                rows += losses(
                    curve | {max_loops: at_max[trainer]}, trainer=trainer, seed=seed, max_loops=max_loops, **world
                )
        for quarter in range(4) if noise is not None else ():
            value = 0.05 * (1 + seed) * math.exp(noise[index] * (quarter == 3))
            norm = {"metric": "late_update_norm", "stratum": f"noise quarter {quarter}", "loops": max_loops}
            rows.append({"trainer": "elt", "seed": seed, "max_loops": max_loops, **norm, "value": value, **world})
    return rows


EVERYTHING = {
    "elt": {0.5: NEAR_ZERO, 1: [0] * 5, 1.5: BETTER, 3: WORSE},
    "no_ilsd": {0.5: WORSE, 1: MIXED, 2: BETTER},
    "noise": WORSE,
}
ALL_EFFECTS = {
    "elastic": {"half": NEAR_ZERO},
    "over-iteration": {"triple": WORSE},
    "modest-extrapolation": {"one-and-a-half": BETTER},
    "vanilla-parity": {"at-max": MIXED},
    "vanilla-collapse": {"half": WORSE, "double": BETTER},
    "update-norms": {"late-loops": WORSE},
}


def decided(rows, *, smoke=False):
    return {
        decision.claim.id: decision for decision in deciding.decide_all(STUDY, frame(rows), presets=None, smoke=smoke)
    }


# Evidence


def test_the_evidence_of_every_claim_is_the_log_ratio_seed_by_seed():
    evidence = STUDY.evidence(frame(curves(**EVERYTHING)))
    assert {claim for claim, cells in evidence.items() if cells} == {claim.id for claim in CLAIMS} == set(ALL_EFFECTS)
    for claim, conditions in ALL_EFFECTS.items():
        (shown,) = evidence[claim].values()
        assert set(shown.primary) == set(conditions)
        for name, effects in conditions.items():
            assert np.allclose(shown.primary[name], effects, rtol=0, atol=1e-12), (claim, name)


@pytest.mark.slow
def test_rows_in_any_order_give_the_same_evidence():
    rows = frame(curves(**EVERYTHING))
    shuffled = rows.sample(frac=1, random_state=1)
    for claim in ALL_EFFECTS:
        for name, effects in STUDY.evidence(rows)[claim][DIGITS].primary.items():
            assert np.array_equal(STUDY.evidence(shuffled)[claim][DIGITS].primary[name], effects)


def test_every_cell_has_its_own_evidence_and_controls_have_none():
    rows = curves(**EVERYTHING)
    rows += curves(elt={0.5: WORSE, 1: [0] * 5}, task="masked", dataset="relay")
    for role, layers in (("dedicated", 2), ("one-layer-block", 1)):
        rows += curves(elt={0.5: MIXED, 1: [0] * 5}, no_ilsd={1: MIXED}, role=role, unique_layers=layers)
    evidence = STUDY.evidence(frame(rows))
    assert set(evidence["elastic"]) == {DIGITS, RELAY}
    assert np.allclose(evidence["elastic"][DIGITS].primary["half"], NEAR_ZERO)
    assert np.allclose(evidence["elastic"][RELAY].primary["half"], WORSE)
    assert set(evidence["vanilla-parity"]) == set(evidence["update-norms"]) == {DIGITS}


def test_seeds_that_only_one_side_has_are_left_out():
    rows = curves(elt={0.5: NEAR_ZERO, 1: [0] * 5})
    rows += [row for row in curves(no_ilsd={1: MIXED}) if row["seed"] in (1, 3)]
    rows = [row for row in rows if not (row["trainer"] == "elt" and row["seed"] == 4 and row["loops"] == 2)]
    evidence = STUDY.evidence(frame(rows))
    assert np.allclose(evidence["vanilla-parity"][DIGITS].primary["at-max"], [MIXED[1], MIXED[3]])
    assert np.allclose(evidence["elastic"][DIGITS].primary["half"], NEAR_ZERO[:4])


# Verdicts


@pytest.mark.parametrize(
    ("effects", "verdict"), [(NEAR_ZERO, "supported"), (WORSE, "contradicted"), (MIXED, "inconclusive")]
)
def test_the_verdict_is_that_of_the_claims_region(effects, verdict):
    decision = decided(curves(elt={0.5: effects, 1: [0] * 5}))["elastic"]
    assert decision.verdict == verdict
    interval = decision.cells[0].conditions[0].primary.interval
    assert interval.estimate == pytest.approx(np.mean(effects))
    assert decision.comparisons == 6  # also where other claims were not measured
    assert interval.level == pytest.approx(1 - 0.05 / 6)


def test_a_collapse_needs_both_sides_of_the_trained_loop_count():
    both = decided(curves(no_ilsd={0.5: WORSE, 1: NEAR_ZERO, 2: WORSE}))["vanilla-collapse"]
    one = decided(curves(no_ilsd={0.5: WORSE, 1: NEAR_ZERO, 2: NEAR_ZERO}))["vanilla-collapse"]
    assert (both.verdict, one.verdict) == ("supported", "contradicted")


def test_a_smoke_preset_gives_no_verdict():
    assert {decision.verdict for decision in decided(curves(**EVERYTHING), smoke=True).values()} == {"inconclusive"}
    assert "supported" in {decision.verdict for decision in decided(curves(**EVERYTHING)).values()}


def test_a_missing_trainer_leaves_its_claims_not_measured():
    decisions = decided(curves(elt=EVERYTHING["elt"], noise=WORSE))
    for claim in ("vanilla-parity", "vanilla-collapse"):
        assert decisions[claim].cells == ()
        assert (decisions[claim].verdict, decisions[claim].reason) == ("inconclusive", "nothing measured")
    assert all(
        decisions[claim].cells for claim in {claim.id for claim in CLAIMS} - {"vanilla-parity", "vanilla-collapse"}
    )


def test_a_loop_count_that_is_no_whole_number_is_not_measured():
    decisions = decided(curves(elt={2: WORSE, 3: WORSE, 1: [0] * 5}, max_loops=3))
    assert decisions["elastic"].cells[0].conditions[0].primary.interval.n == 0
    assert decisions["elastic"].verdict == "inconclusive"
    assert decisions["over-iteration"].verdict == "supported"


@pytest.mark.slow
@pytest.mark.parametrize("broken", [None, math.nan, math.inf])
def test_a_value_that_is_not_finite_gives_no_verdict_but_a_reason_and_stops_nothing(broken):
    rows = curves(**EVERYTHING)
    for row in rows:
        if (row["trainer"], row["seed"], row["loops"], row["metric"]) == ("elt", 1, 2, "heldout_loss"):
            row["value"] = broken
    decisions = decided(rows)
    assert decisions["elastic"].verdict == "inconclusive"
    assert "value 1 of the differences is" in decisions["elastic"].reason
    assert decisions["over-iteration"].verdict == "supported"
    assert STUDY.figure(frame(rows)).axes
    (point,) = STUDY.summarise(frame(rows)).query("metric == 'heldout_loss' and trainer == 'elt' and loops == 2")[
        "mean"
    ]
    assert math.isnan(point)


@pytest.mark.slow
@pytest.mark.parametrize("value", [0.0, -0.5])
def test_a_loss_of_which_no_ratio_can_be_taken_leaves_one_cell_open_and_names_seed_and_value(value):
    other = curves(**EVERYTHING, dataset="digits-codes", task="masked")
    rows = curves(**EVERYTHING)
    for row in rows:
        if (row["trainer"], row["seed"], row["loops"], row["metric"]) == ("elt", 1, 2, "heldout_loss"):
            row["value"] = value
    decisions = decided([*rows, *other])
    first, second = decisions["elastic"].cells
    assert (first.verdict, second.verdict) == ("inconclusive", "supported")
    assert first.reason == f"half: a log-ratio needs values above zero, there are {value:g} in seed 1"
    assert decisions["over-iteration"].verdict == "supported"
    assert STUDY.figure(frame(rows)).axes
    STUDY.summarise(frame(rows))


# The second witness


def kernel(values, null=0.03, trainer="elt"):
    """Kernel distances by loops, each a list over seeds."""
    rows = []
    for seed in SEEDS:
        rows += distances({loops: by_seed[seed] for loops, by_seed in values.items()}, null, trainer=trainer, seed=seed)
    return rows


AT_MAX = [0.10, -0.02, 0.07, 0.01, 0.05]  # unbiased estimates go negative


def test_the_second_witness_is_the_difference_of_kernel_distances_with_the_null_deviation_as_its_margin():
    far = [value + 1 for value in AT_MAX]
    rows = curves(**EVERYTHING) + kernel({2: far, 4: AT_MAX}, null=0.025) + kernel({4: far}, 0.025, "no-ilsd")
    evidence = STUDY.evidence(frame(rows))
    elastic, parity = evidence["elastic"][DIGITS].second, evidence["vanilla-parity"][DIGITS].second
    assert (elastic.name, elastic.margin) == ("kernel_distance", 0.025)
    assert np.allclose(elastic.effects["half"], [1.0] * 5)
    assert np.allclose(parity.effects["at-max"], [1.0] * 5)
    assert evidence["over-iteration"][DIGITS].second is None  # no samples at 3·L_max
    assert evidence["vanilla-collapse"][DIGITS].second is None
    assert evidence["update-norms"][DIGITS].second is None


@pytest.mark.slow
def test_a_seed_that_one_side_lacks_leaves_no_verdict_and_is_named():
    rows = frame(curves(**EVERYTHING | {"no_ilsd": {0.5: WORSE, 1: BETTER, 2: WORSE}}))
    failed = rows[(rows["trainer"] != "no-ilsd") | (rows["seed"] != 1)]
    decisions = {it.claim.id: it for it in deciding.decide_all(STUDY, failed, presets=None, smoke=False)}
    complete = {it.claim.id: it for it in deciding.decide_all(STUDY, rows, presets=None, smoke=False)}
    parity = decisions["vanilla-parity"]
    assert (parity.verdict, complete["vanilla-parity"].verdict) == ("inconclusive", "supported")
    assert "seeds [1] lack one side" in parity.reason
    assert decisions["elastic"].verdict == complete["elastic"].verdict == "supported"


def test_a_loop_count_that_an_odd_l_max_does_not_have_is_the_reason():
    rows = frame(curves(elt={1: [0] * 5, 3: WORSE}, no_ilsd={1: MIXED, 2: BETTER}, max_loops=3))
    found = {decision.claim.id: decision for decision in deciding.decide_all(STUDY, rows, presets=None, smoke=False)}
    assert found["elastic"].verdict == "inconclusive"
    assert "0.5 times the L_max = 3 of elt is no loop count" in found["elastic"].reason
    assert found["over-iteration"].verdict != "inconclusive"


def test_samples_that_could_not_be_scored_leave_no_verdict():
    rows = frame(curves(**EVERYTHING))
    empty = {"metric": "sample_scores", "value": None, "loops": None, "reason": "ValueError: broken"}
    rows = pd.concat([rows, rows.head(1).assign(**empty)], ignore_index=True)
    found = STUDY.evidence(rows)["over-iteration"][DIGITS]
    assert found.without == {"triple": "samples were not scored: ValueError: broken"}


def test_a_condition_without_samples_keeps_its_primary_witness_alone():
    rows = curves(**EVERYTHING) + kernel({4: AT_MAX, 8: AT_MAX}, trainer="no-ilsd")
    second = STUDY.evidence(frame(rows))["vanilla-collapse"][DIGITS].second
    assert set(second.effects) == {"double"}


@pytest.mark.parametrize(
    ("beyond", "verdict"),
    [
        (0.0, "supported"),  # both agree
        (1.0, "inconclusive"),  # the samples are far worse by more than the null deviation
    ],
)
def test_witnesses_that_disagree_leave_the_claim_open(beyond, verdict):
    shifted = [value + beyond + 0.001 * seed for seed, value in enumerate(AT_MAX)]
    decision = decided(curves(elt={0.5: NEAR_ZERO, 1: [0] * 5}) + kernel({2: shifted, 4: AT_MAX}))["elastic"]
    assert decision.verdict == verdict
    assert ("the witnesses disagree" in decision.reason) == (verdict == "inconclusive")


def test_samples_that_are_not_finite_do_not_stop_the_primary_witness():
    decision = decided(curves(elt={0.5: NEAR_ZERO, 1: [0] * 5}) + kernel({2: [None, *AT_MAX[1:]], 4: AT_MAX}))[
        "elastic"
    ]
    assert decision.verdict == "supported"
    assert "differences is nan" in decision.cells[0].conditions[0].second.reason
