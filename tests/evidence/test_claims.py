"""The declared claims, and how effects, conditions, witnesses and cells become verdicts."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eltbench import studies
from eltbench.evidence.claims import Cell, Claim, Condition, Evidence, Witness, decide
from eltbench.evidence.intervals import paired_interval
from eltbench.evidence.regions import Region
from eltbench.studies import claim, claims

DECIDED = studies.get("extrapolation").claims
SOLVING = {"harder-by-loops", "recall-prevents-overthinking", "ilsd-generalises", "depth-by-difficulty"}
STOPPING = {"later-on-harder", "saved-at-equal-solving"}
TUNING = {"loop-needs-scale", "rate-transfer"}
EXTRAPOLATION = {
    "elastic",
    "vanilla-collapse",
    "vanilla-parity",
    "over-iteration",
    "modest-extrapolation",
    "update-norms",
}
UNDECLARED = {"operating-point"}
DIGITS, RELAY = Cell("diffusion", "digits", "torch"), Cell("masked", "relay", "torch")
TIGHT = (-0.01, 0.0, 0.01)


def around(effect, spread=1.0):
    return [effect + spread * deviation for deviation in TIGHT]


def elastic(effects, **settings):
    return decide(claim("elastic"), {DIGITS: Evidence({"half": effects})}, **{"comparisons": 1, **settings})


def test_every_claim_has_conditions_or_says_why_it_is_undecidable():
    every = [entry for its in claims().values() for entry in its]
    assert {entry.id for entry in every if not entry.conditions} == UNDECLARED
    assert all(entry.statement and entry.reference for entry in every)
    assert {entry.id for entry in every if not entry.paper_section} == SOLVING | STOPPING | TUNING
    assert len({entry.id for entry in every}) == len(every) == 28


def test_the_extrapolation_study_decides_its_claims_of_losses_and_of_solving():
    by_family = {family: {each.id for each in DECIDED if each.family == family} for family in ("", "solving")}
    assert by_family == {"": EXTRAPOLATION, "solving": SOLVING}


def test_a_claim_says_what_it_is_decided_by():
    with pytest.raises(ValueError, match="claim 'bare' has no condition to decide by"):
        Claim("bare", "headline", "something", ())
    condition = Condition("half", "loss", Region.of_ratio(below=1.02))
    with pytest.raises(ValueError, match="claim 'twice' names a condition twice"):
        Claim("twice", "headline", "something", (condition, condition))


def test_bounds_of_a_ratio_are_logarithms():
    assert Region.of_ratio(above=0.98, below=1.02) == Region(math.log(0.98), math.log(1.02))
    assert Region.of_ratio(above=1.05) == Region(low=math.log(1.05))
    assert Region.of_ratio(below=1.02).describe("log-ratio") == "below +2.00 %"


def test_an_unknown_claim_suggests_the_near_miss():
    with pytest.raises(ValueError, match="did you mean 'elastic'"):
        claim("elstic")


@pytest.mark.parametrize(
    ("effect", "verdict"),
    [(-0.2, "supported"), (math.log(1.02) - 0.03, "supported"), (0.2, "contradicted"), (0.01, "inconclusive")],
)
def test_a_verdict_follows_the_interval_of_the_effects(effect, verdict):
    decision = elastic(around(effect))
    assert decision.verdict == verdict
    finding = decision.cells[0].conditions[0].primary
    assert finding.interval == paired_interval(around(effect))
    assert finding.region.verdict(finding.interval) == verdict


@pytest.mark.parametrize("effects", [[], [-0.5], [-0.5, -0.5]])
def test_fewer_than_three_seeds_give_no_verdict(effects):
    decision = elastic(effects)
    assert decision.verdict == "inconclusive"
    assert f"at least 3 seeds, there are {len(effects)}" in decision.reason


def test_a_smoke_preset_gives_no_verdict():
    decision = elastic(around(-0.5), preset_is_smoke=True)
    verdicts = {decision.verdict, decision.cells[0].verdict, decision.cells[0].conditions[0].primary.verdict}
    assert verdicts == {"inconclusive"}
    assert "smoke preset" in decision.reason


def test_a_diverged_seed_gives_no_verdict_and_is_named():
    decision = elastic([-0.5, math.inf, -0.5])
    assert decision.verdict == "inconclusive"
    assert "value 1 of the differences is inf" in decision.reason
    assert decision.to_dict()["cells"][0]["conditions"][0]["witnesses"][0]["n"] == 3


def test_more_claims_in_a_study_ask_more_of_each():
    effects = around(-0.01)  # half-width 0.0248 alone, 0.0629 among six
    assert elastic(effects).verdict == "supported"
    assert elastic(effects, comparisons=6).verdict == "inconclusive"


@pytest.mark.parametrize(
    ("half", "double", "verdict"),
    [
        (0.5, 0.5, "supported"),
        (0.5, 0.05, "inconclusive"),
        (0.5, -0.5, "contradicted"),
        (0.05, -0.5, "contradicted"),
        (-0.5, -0.5, "contradicted"),
    ],
)
def test_a_claim_of_two_conditions_needs_both_and_falls_with_one(half, double, verdict):
    evidence = {DIGITS: Evidence({"half": around(half), "double": around(double)})}
    decision = decide(claim("vanilla-collapse"), evidence, comparisons=1)
    assert decision.verdict == verdict
    assert ("double: " in decision.reason) == (double != 0.5 or verdict == "supported")


@pytest.mark.parametrize(
    ("loss", "distance", "verdict"),
    [
        (-0.5, -0.5, "supported"),
        (-0.5, 0.1, "supported"),  # an undecided second witness does not withdraw
        (-0.5, 0.5, "inconclusive"),
        (0.5, -0.5, "inconclusive"),
        (0.5, 0.5, "contradicted"),
        (0.02, -0.5, "inconclusive"),  # nor does a decided one give a verdict by itself
    ],
)
def test_the_second_witness_can_withdraw_a_verdict_but_never_give_one(loss, distance, verdict):
    evidence = Evidence({"half": around(loss)}, Witness("kernel_distance", {"half": around(distance)}, margin=0.1))
    decision = decide(claim("elastic"), {DIGITS: evidence}, comparisons=1)
    assert decision.verdict == verdict
    shown = decision.to_dict()["cells"][0]["conditions"][0]["witnesses"]
    assert [entry["witness"] for entry in shown] == ["primary", "kernel_distance"]
    assert shown[1]["region"] == [None, 0.1]
    assert ("disagree" in decision.reason) == (loss * distance == -0.25)


def test_the_witnesses_oppose_each_other_condition_by_condition():
    loss = {"half": around(-0.5), "double": around(0.5)}
    opposed = Witness("kernel_distance", {"half": around(0.5)}, margin=0.1)
    decision = decide(claim("vanilla-collapse"), {DIGITS: Evidence(loss, opposed)}, comparisons=1)
    assert [entry.verdict for entry in decision.cells[0].conditions] == ["inconclusive", "supported"]
    assert decision.verdict == "inconclusive"


@pytest.mark.parametrize(
    ("digits", "relay", "verdict"),
    [
        (-0.5, -0.5, "supported"),
        (0.5, 0.5, "contradicted"),
        (-0.5, 0.5, "inconclusive"),
        (-0.5, 0.02, "inconclusive"),
        (0.5, 0.02, "inconclusive"),
    ],
)
def test_a_claim_has_a_verdict_only_where_every_cell_has_it(digits, relay, verdict):
    evidence = {DIGITS: Evidence({"half": around(digits)}), RELAY: Evidence({"half": around(relay)})}
    decision = decide(claim("elastic"), evidence, comparisons=1)
    assert decision.verdict == verdict
    assert decision.reason.startswith("of 2 cells: ")
    assert [cell.cell for cell in decision.cells] == [DIGITS, RELAY]


@pytest.mark.parametrize(
    ("spills", "fits", "verdict"),
    [
        ([0.5, 0.6], [0.0], "supported"),
        ([0.5, 0.0], [0.0], "inconclusive"),  # one cell for it, one against it
        ([0.0, 0.01], [0.0], "contradicted"),
        ([0.5], [0.5], "contradicted"),  # and one condition is enough
        ([0.5], [], "inconclusive"),
    ],
)
def test_cells_that_are_asked_different_conditions_are_judged_by_condition(spills, fits, verdict):
    effects = {f"spills {place}": ("spills", value) for place, value in enumerate(spills)}
    effects |= {f"fits {place}": ("fits", value) for place, value in enumerate(fits)}
    evidence = {
        Cell("call", name, "torch"): Evidence({condition: around(value, 0.1)}, asks=(condition,))
        for name, (condition, value) in effects.items()
    }
    decision = decide(claim("throughput"), evidence, comparisons=4)
    assert decision.verdict == verdict
    assert fits or decision.reason.endswith("no cell speaks to fits")


def test_a_reason_not_to_judge_withdraws_a_verdict_and_is_told():
    cell, effects = Cell("step", "digits", "torch"), {"step-time": around(0.01, 0.1)}
    its = claim("step-cost")
    assert decide(its, {cell: Evidence(effects)}, comparisons=1).verdict == "supported"
    decision = decide(its, {cell: Evidence(effects, without={"step-time": "noisy"})}, comparisons=1)
    assert (decision.verdict, decision.reason) == ("inconclusive", "step-time: noisy")
    with pytest.raises(ValueError, match="unknown condition of claim 'step-cost' 'step'"):
        decide(its, {cell: Evidence({}, asks=("step",))}, comparisons=1)


def test_a_claim_without_a_cell_is_inconclusive():
    decision = decide(claim("elastic"), {}, comparisons=6)
    assert (decision.verdict, decision.reason, decision.cells) == ("inconclusive", "nothing measured", ())


def test_conditions_that_are_not_the_claims_are_refused():
    with pytest.raises(ValueError, match="did you mean 'half'"):
        decide(claim("elastic"), {DIGITS: Evidence({"half": TIGHT, "hlaf": TIGHT})}, comparisons=6)
    with pytest.raises(ValueError, match=r"diffusion/digits/torch lacks conditions \['double'\]"):
        decide(claim("vanilla-collapse"), {DIGITS: Evidence({"half": TIGHT})}, comparisons=6)
    unknown = Witness("kernel_distance", {"double": TIGHT}, margin=0.1)
    with pytest.raises(ValueError, match="unknown condition of claim 'elastic' 'double'"):
        decide(claim("elastic"), {DIGITS: Evidence({"half": TIGHT}, unknown)}, comparisons=6)


def test_a_claim_without_an_interval_is_refused_with_its_reason():
    with pytest.raises(ValueError, match=r"operating-point.*3 tiers of devices"):
        decide(claim("operating-point"), {}, comparisons=6)


def test_percentages_stand_beside_log_ratios_only():
    evidence = Evidence({"half": around(math.log(1.5))}, Witness("kernel_distance", {"half": TIGHT}, margin=0.1))
    cell = decide(claim("elastic"), {DIGITS: evidence}, comparisons=6).to_dict()["cells"][0]
    loss, distance = cell["conditions"][0]["witnesses"]
    assert loss["percent"]["estimate"] == pytest.approx(50)
    assert math.log1p(loss["percent"]["low"] / 100) == pytest.approx(loss["low"])
    assert "percent" not in distance


numbers = st.floats(-2, 2) | st.sampled_from([0.0, 0.25, math.nan, math.inf, 1e4, -1e4])


@given(st.lists(st.tuples(st.lists(numbers, max_size=6), st.lists(numbers, max_size=6)), max_size=3), st.booleans())
def test_any_decision_is_strict_json_whose_verdicts_follow_from_its_numbers(cells, smoke):
    evidence = {
        Cell("diffusion", f"world-{i}", "torch"): Evidence({"half": a}, Witness("kernel_distance", {"half": b}, 0.2))
        for i, (a, b) in enumerate(cells)
    }
    decision = decide(claim("elastic"), evidence, comparisons=6, preset_is_smoke=smoke)
    shown = json.loads(json.dumps(decision.to_dict(), allow_nan=False))
    for cell in shown["cells"]:
        for witness in cell["conditions"][0]["witnesses"]:
            _, bound = witness["region"]
            if smoke or witness["n"] < 3 or witness["low"] is None or witness["low"] == witness["high"]:
                expected = "inconclusive"
            elif witness["high"] < bound:
                expected = "supported"
            else:
                expected = "contradicted" if witness["low"] >= bound else "inconclusive"
            assert witness["verdict"] == expected
        primary, second = (witness["verdict"] for witness in cell["conditions"][0]["witnesses"])
        opposed = {primary, second} == {"supported", "contradicted"}
        assert cell["verdict"] == ("inconclusive" if opposed else primary)
    whole = {cell["verdict"] for cell in shown["cells"]}
    assert shown["verdict"] == (whole.pop() if len(whole) == 1 else "inconclusive")


# Effects that agree exactly


def test_effects_that_agree_exactly_are_no_certainty():
    """Of networks that learned nothing, or of one beside itself: neither for a claim nor against it."""
    for effect in (0.0, 0.5):
        found = elastic([effect] * 5)
        assert found.verdict == "inconclusive"
        assert "no spread between seeds: all 5 effects are exactly +" in found.reason
    assert elastic([0.0, 0.0, 0.0, 0.0, 1e-9]).verdict == "supported"


def test_counts_may_agree_exactly():
    """Steps up to a horizon, shares of trials, bytes: five seeds without a violation are five seeds without one."""
    counted = Evidence({"half": [0.0] * 5}, counts=("half",))
    assert decide(claim("elastic"), {DIGITS: counted}, comparisons=1).verdict == "supported"


def test_a_second_witness_without_spread_withdraws_no_verdict():
    still = Witness("kernel_distance", {"half": [9.0] * 3}, 0.1)
    found = decide(claim("elastic"), {DIGITS: Evidence({"half": around(0.0, 0.1)}, still)}, comparisons=1)
    assert found.verdict == "supported"
    assert found.cells[0].conditions[0].second.verdict == "inconclusive"
