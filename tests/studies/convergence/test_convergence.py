"""The study convergence: the evidence that its rows become, what is decided from it, and what is said beside it."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from synthetic_rows import MODEL, distances, frame

from eltbench import studies
from eltbench.evidence.claims import Cell
from eltbench.evidence.intervals import paired_interval
from eltbench.evidence.steps_to_target import steps_to_target
from eltbench.studies import deciding
from eltbench.studies.convergence import arrivals as targets
from eltbench.studies.convergence import variants
from eltbench.studies.convergence.tables import over_unique

STUDY = studies.create("convergence")
DIGITS, RELAY = Cell("diffusion", "digits", "torch"), Cell("masked", "relay", "torch")
STEPS = np.arange(75, 1501, 75)
SEEDS = range(5)
FLOPS = {"elt": 1.1e9, "unique-depth": 1e9}  # of a step
SPEED_UP = [0.50, 0.52, 0.49, 0.51, 0.48]  # steps of elt over those of unique layers to the same loss
FALLS = 0.3  # exponent of the power law


def curve(trainer, seed, values, *, loops=None, **model):
    """The held-out losses of one model at the checkpoints."""
    model = {"unique_layers": 8, "max_loops": 1} | model if trainer == "unique-depth" else model
    loops = loops or {**MODEL, **model}["max_loops"]
    run_id = f"{trainer}-{seed}-{sorted(model.items())}"
    known = {"trainer": trainer, "seed": seed, "run_id": run_id, "loops": loops, "metric": "heldout_loss", **model}
    return [
        {
            **known,
            "value": value,
            "training_step": step,
            "training_samples": 64 * step,
            "training_flops": FLOPS.get(trainer, 1e9) * step,
        }
        for step, value in zip(STEPS, values, strict=True)
    ]


def power_law(speed_up=1.0, scale=1.0):
    """A curve that reaches every loss after `speed_up` times the steps."""
    return scale * (STEPS / speed_up) ** -FALLS


def race(speed_up=SPEED_UP, seeds=SEEDS, **world):
    """elt against unique layers; seeds differ far more than the two do: only pairing finds them."""
    rows = []
    for seed in seeds:
        rows += curve("elt", seed, power_law(speed_up[seed], 1 + seed), **world)
        rows += curve("unique-depth", seed, power_law(1, 1 + seed), role="equal-compute", **world)
    return rows


def variant(role, changes, seeds=SEEDS, loops=(2, 4), **world):
    """elt in a role, its loss off that of `race` by these log-ratios at the loop counts."""
    rows = []
    for seed in seeds:
        for each in loops:
            values = power_law(SPEED_UP[seed], 1 + seed) * math.exp(changes[seed])
            rows += curve("elt", seed, values, loops=each, role=role, **world)
    return rows


def halves(seeds=SEEDS, **world):
    """The main models' losses at L_max/2."""
    return [row for seed in seeds for row in curve("elt", seed, power_law(SPEED_UP[seed], 1 + seed), loops=2, **world)]


def table(rows) -> pd.DataFrame:
    return frame(rows, STUDY.columns)


def decided(rows, **settings):
    found = deciding.decide_all(STUDY, table(rows), presets=None, **{"smoke": False, **settings})
    return {decision.claim.id: decision for decision in found}


def line(rows, metric, **where):
    """The one line of the summary."""
    found = STUDY.summarise(table(rows))
    for name, value in {"metric": metric, **where}.items():
        found = found[found[name] == value]
    (only,) = found.itertuples()
    return only


# Convergence


def test_the_evidence_is_the_log_ratio_of_the_steps_to_the_unique_depth_models_final_loss():
    evidence = STUDY.evidence(table(race()))["convergence"]
    assert set(evidence) == {DIGITS}
    for condition in ("steps", "common-target"):  # elt ends lower, so both targets are one
        assert np.allclose(evidence[DIGITS].primary[condition], np.log(SPEED_UP), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("speed_up", "verdict"),
    [
        (SPEED_UP, "supported"),
        ([0.97, 0.98, 0.99, 0.96, 0.98], "contradicted"),  # faster, yet not by a tenth
        ([1.5, 1.6, 1.4, 1.5, 1.7], "contradicted"),
        ([0.5, 1.4, 0.7, 1.2, 0.9], "inconclusive"),
    ],
)
def test_the_verdict_is_that_of_the_claims_region(speed_up, verdict):
    assert decided(race(speed_up))["convergence"].verdict == verdict
    assert decided(race(speed_up), smoke=True)["convergence"].verdict == "inconclusive"


def test_a_target_never_reached_counts_as_the_horizon_and_the_common_target_says_by_how_much():
    slower = [1.5, 1.6, 1.4, 1.5, 1.7]
    evidence = STUDY.evidence(table(race(slower)))["convergence"][DIGITS].primary
    assert np.allclose(evidence["steps"], 0, atol=1e-9)
    assert np.allclose(evidence["common-target"], np.log(slower), atol=1e-9)


def test_steps_of_the_unique_depth_model_end_where_it_was_as_good_as_at_its_end():
    """An overfitted target is easy, also for the one who sets it."""
    rows = []
    for seed in SEEDS:
        overfitted = power_law(1, 1 + seed)
        overfitted[10:] = overfitted[5]  # as after the sixth checkpoint
        rows += curve("elt", seed, power_law(SPEED_UP[seed], 1 + seed))
        rows += curve("unique-depth", seed, overfitted, role="equal-compute")
    found = targets.arrivals(table(rows))
    assert np.allclose(found["own_steps"], STEPS[5])
    assert np.allclose(found["steps"] / found["own_steps"], SPEED_UP)


def test_the_unique_depth_model_is_that_of_the_same_depth():
    rows = race()
    shallow = [row for seed in SEEDS for row in curve("unique-depth", seed, power_law(9), unique_layers=4)]
    assert STUDY.evidence(table(rows + shallow))["convergence"][DIGITS].primary["steps"] == pytest.approx(
        np.log(SPEED_UP)
    )
    without = [row for row in rows if row["trainer"] == "elt"] + shallow
    assert STUDY.evidence(table(without))["convergence"] == {}


def test_the_unique_depth_model_is_that_of_the_same_width():
    rows = race()
    wide = [row for seed in SEEDS for row in curve("unique-depth", seed, power_law(9), width=128, role="wide")]
    assert STUDY.evidence(table(wide + rows))["convergence"][DIGITS].primary["steps"] == pytest.approx(np.log(SPEED_UP))


@pytest.mark.slow
def test_the_main_model_alone_decides_and_every_other_looped_model_is_reported():
    rows = race()
    for seed in SEEDS:
        rows += curve("elt", seed, power_law(0.25, 1 + seed), role="half-parameters", unique_layers=4, max_loops=2)
        rows += curve("no-ilsd", seed, power_law(0.8, 1 + seed))
    assert STUDY.evidence(table(rows))["convergence"][DIGITS].primary["steps"] == pytest.approx(np.log(SPEED_UP))
    assert line(rows, "steps_to_target_ratio", role="half-parameters").mean == pytest.approx(0.25)
    assert line(rows, "steps_to_target_ratio", trainer="no-ilsd").mean == pytest.approx(0.8)


def test_every_world_has_its_own_evidence():
    rows = race() + race([2.0] * 5, task="masked", dataset="relay")
    evidence = STUDY.evidence(table(rows))["convergence"]
    assert set(evidence) == {DIGITS, RELAY}
    assert np.allclose(evidence[RELAY].primary["common-target"], math.log(2))


def test_a_seed_that_one_side_lacks_leaves_no_verdict_and_is_named():
    rows = [row for row in race() if not (row["trainer"] == "unique-depth" and row["seed"] == 3)]
    decision = decided(rows)["convergence"]
    assert decision.verdict == "inconclusive"
    assert "seeds [3] lack one side" in decision.reason
    assert len(STUDY.evidence(table(rows))["convergence"][DIGITS].primary["steps"]) == 4


@pytest.mark.slow
@pytest.mark.parametrize("broken", [None, math.nan, math.inf])
def test_a_loss_that_is_no_number_gives_no_verdict_but_a_reason_and_stops_nothing(broken):
    rows = race() + halves() + variant("cosine", [0.001, -0.001, 0.0, 0.001, 0.0])
    next(row for row in rows if (row["trainer"], row["seed"], row["loops"]) == ("elt", 1, 4))["value"] = broken
    decisions = decided(rows)
    assert decisions["convergence"].verdict == "inconclusive"
    assert "value 1 of the differences is nan" in decisions["convergence"].reason
    assert decisions["lambda-insensitive"].verdict == "supported"  # the broken value is not the last
    assert "seed 1: the loss at step 75 is" in line(rows, "steps_to_target", role="main").reason
    assert STUDY.figure(table(rows)).axes
    lost = table([{**row, "value": broken} for row in rows])
    assert STUDY.figure(lost).axes
    assert STUDY.remarks(lost) == []
    assert STUDY.summarise(lost)["mean"].isna().all()


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5, 20])
@pytest.mark.parametrize(("exponent", "spread"), [(0.02, 0.03), (0.1, 0.03), (0.3, 0.01)])
def test_two_copies_of_one_trainer_are_not_told_apart_at_the_stated_rate(seeds, exponent, spread):
    """Curves of one power law that seeds shift and checkpoints shake: flat ones leave steps very uncertain.

    At 20 seeds and the flattest curves the condition `steps` alone would be supported in half of the draws.
    """
    rng, draws, both, alone = np.random.default_rng(seeds), 200, 0, 0
    region, same_region = (condition.region for condition in studies.claim("convergence").conditions)
    for _ in range(draws):
        effects = []
        for _ in range(seeds):
            shift, shake = rng.normal(scale=spread, size=(2, 1)), rng.normal(scale=0.003, size=(2, len(STEPS)))
            elt, unique = (STEPS / 75) ** -exponent * np.exp(shift + shake)
            ours, theirs = (
                [steps_to_target(STEPS, losses, target).steps for target in (unique[-1], max(elt[-1], unique[-1]))]
                for losses in (elt, unique)
            )
            effects.append(np.log(ours) - np.log(theirs))
        found = [region.verdict(paired_interval(effect, comparisons=2)) for effect in np.transpose(effects)]
        alone += found[0] == "supported"
        both += found == ["supported", "supported"]
    assert region == same_region
    assert stats.binomtest(both, draws, 0.0125, alternative="greater").pvalue > 1e-3, both / draws
    if (seeds, exponent) == (20, 0.02):
        assert alone > 0.4 * draws


# What is said beside the verdict


def test_the_summary_holds_the_curves_and_the_ratios_of_steps_samples_and_flops():
    rows = race()
    geometric = math.exp(np.mean(np.log(SPEED_UP)))
    for name, cost in (("steps", 1), ("samples", 1), ("flops", 1.1)):
        found = line(rows, f"{name}_to_target_ratio")
        low, high = np.exp(stats.t.interval(0.95, 4, np.mean(np.log(SPEED_UP)), stats.sem(np.log(SPEED_UP))))
        assert (found.mean, found.low, found.high) == pytest.approx((cost * geometric, cost * low, cost * high))
        assert found.seeds == 5
    assert line(rows, "steps_to_target").mean == pytest.approx(1500 * np.mean(SPEED_UP))
    point = line(rows, "heldout_loss", trainer="elt", training_step=750)
    expected = np.mean([power_law(speed, 1 + seed)[9] for seed, speed in enumerate(SPEED_UP)])
    assert point.mean == pytest.approx(expected)
    assert (point.training_samples, point.training_flops) == (64 * 750, pytest.approx(1.1e9 * 750))


def test_a_cell_in_which_no_target_was_reached_says_so_with_the_nearest_that_was():
    slower = [1.5, 1.6, 1.4, 1.5, 1.7]
    (remark,) = STUDY.remarks(table(race(slower)))
    asked = power_law(1, 3)[-1]
    assert remark.startswith("diffusion digits torch: no model reached the final loss of its unique-depth model within")
    assert f"nearest came elt 2N×4L of seed 2: a target of {asked * 1.4**FALLS:.6g} instead of {asked:.6g}" in remark
    assert "1500 steps" in remark
    found = line(race(slower), "steps_to_target")
    assert found.reason.count("never reached, counts as 1500 steps") == 5
    assert found.mean == 1500


def test_nothing_is_said_where_some_model_reached_its_target_or_none_was_set():
    rows = race([2, 2, 2, 2, 0.9])
    assert STUDY.remarks(table(rows)) == []
    assert STUDY.remarks(table([row for row in rows if row["trainer"] == "elt"])) == []
    assert line(rows, "steps_to_target").reason.count("never reached") == 4


@pytest.mark.slow
def test_the_figure_draws_every_model_once_and_its_variants_below(tmp_path):
    rows = race() + halves() + variant("cosine", [0.001] * 5) + variant("no-teacher", [0.5] * 5)
    rows += race(task="masked", dataset="relay")
    canvas = STUDY.figure(table(rows))
    titles = [axis.get_title() for axis in canvas.axes]
    assert titles == [
        *["diffusion · digits"] * 2,
        "diffusion · digits: elt at L = 2",
        "diffusion · digits: elt at L = 4",
        *["masked · relay"] * 2,
    ]
    steps, forest = canvas.axes[0], canvas.axes[2]
    (key,) = canvas.legends
    assert {text.get_text() for text in key.get_texts()} == {
        "elt 2N×4L",
        "unique-depth 8N×1L (equal-compute)",
        "target: final loss of unique-depth",
        "reaches the target (mean)",
        "margin, ±2 %",
        "95 % interval over 5 seeds",
    }
    (star,) = [each for each in steps.get_lines() if each.get_marker() == "*"]
    assert star.get_xdata()[0] == pytest.approx(1500 * np.mean(SPEED_UP))
    assert [text.get_text() for text in forest.get_yticklabels()] == ["cosine", "no-teacher"]
    canvas.savefig(tmp_path / "figure.png")


@pytest.mark.slow
def test_one_seed_draws_its_figure_without_intervals_or_warnings(tmp_path):
    canvas = STUDY.figure(table(race(seeds=[0]) + halves(seeds=[0]) + variant("cosine", [0.1], seeds=[0])))
    canvas.savefig(tmp_path / "figure.png")


def test_a_world_whose_main_models_failed_is_drawn_as_such(tmp_path):
    canvas = STUDY.figure(table(variant("cosine", SAME)))
    assert [text.get_text() for text in canvas.axes[0].texts] == ["no run left a curve"]
    canvas.savefig(tmp_path / "figure.png")


# The variants


SAME = [0.004, -0.003, 0.001, -0.001, 0.002]
WORSE = [0.102, 0.098, 0.101, 0.099, 0.100]


@pytest.mark.parametrize(("changes", "verdict"), [(SAME, "supported"), (WORSE, "contradicted")])
def test_a_gradual_decay_that_changes_nothing_supports_the_claim(changes, verdict):
    decision = decided(race() + halves() + variant("cosine", changes))["lambda-insensitive"]
    assert decision.verdict == verdict
    for condition in decision.cells[0].conditions:
        assert condition.primary.interval.estimate == pytest.approx(np.mean(changes))


@pytest.mark.slow
def test_the_claim_looks_at_the_cosine_alone_and_every_variant_is_reported():
    rows = race() + halves() + variant("cosine", SAME) + variant("constant-0", WORSE)
    assert decided(rows)["lambda-insensitive"].verdict == "supported"
    for loops in (2, 4):
        found = line(rows, "loss_change_from_linear_percent", role="constant-0", loops=loops)
        assert found.mean == pytest.approx(100 * math.expm1(np.mean(WORSE)))
        assert found.low < found.mean < found.high


@pytest.mark.slow
def test_the_table_of_documents_has_every_variant_with_students_t_over_paired_seeds():
    rows = race() + halves() + variant("constant-0", WORSE) + variant("cosine", SAME, loops=(4,))
    _, _, *body = variants.markdown(STUDY.summarise(table(rows))).splitlines()
    cosine, constant = ([cell.strip() for cell in line.strip("|").split("|")] for line in body)
    assert cosine[:3] == ["diffusion digits torch", "cosine", "not measured"]
    low, high = stats.t.interval(0.95, 4, loc=np.mean(WORSE), scale=stats.sem(WORSE))
    mean, low, high = (f"{100 * math.expm1(value):+.2f} %" for value in (np.mean(WORSE), low, high))
    assert constant == ["", "constant-0", *2 * [f"{mean} [{low}, {high}]"], "5"]


def test_the_samples_are_a_second_witness():
    rows = race() + halves() + variant("cosine", SAME)
    at_end = {"training_step": 1500}
    for seed in SEEDS:
        for role, shift in (("main", 0), ("cosine", 0.5 + 0.001 * seed)):
            run_id = next(row["run_id"] for row in rows if row.get("role", "main") == role and row["seed"] == seed)
            near = {2: 0.1 + shift, 4: 0.05 + shift}
            rows += distances(near, 0.02, trainer="elt", role=role, seed=seed, run_id=run_id, **at_end)
    decision = decided(rows)["lambda-insensitive"]
    assert decision.verdict == "inconclusive"
    assert "the witnesses disagree" in decision.reason
    shown = STUDY.evidence(table(rows))["lambda-insensitive"][DIGITS].second
    assert (shown.name, shown.margin) == ("kernel_distance", 0.02)
    assert np.allclose(shown.effects["half"], [0.5 + 0.001 * seed for seed in SEEDS])


def test_a_variant_lacking_seeds_or_exits_leaves_the_claim_open():
    lacking = decided(race() + halves() + variant("cosine", SAME, seeds=[0, 1, 2, 4]))["lambda-insensitive"]
    assert "seeds [3] lack one side" in lacking.reason
    at_max_alone = decided(race() + variant("cosine", SAME, loops=(4,)))["lambda-insensitive"]
    assert (lacking.verdict, at_max_alone.verdict) == ("inconclusive", "inconclusive")
    assert decided(race() + halves())["lambda-insensitive"].reason == "nothing measured"


def test_a_loss_of_zero_leaves_the_cell_open_and_names_seed_and_value():
    rows = race()
    for row in rows:
        if row["seed"] == 2 and row["trainer"] == "elt":
            row["value"] = 0.0
    decision = decided(rows)["convergence"]
    assert decision.verdict == "inconclusive"
    assert "a log-ratio needs values above zero, there are 0 in seed 2" in decision.reason
    STUDY.summarise(table(rows))


def test_a_loss_is_held_against_unique_depths_at_the_same_cost():
    """Where its loss is a power of the cost, interpolation between snapshots is exact."""
    at = {"unique-depth": np.array([1.0, 4.0, 16.0]), "elt": np.array([0.5, 2.0, 8.0, 32.0])}
    losses = pd.concat(
        pd.DataFrame({"trainer": name, "at": costs, "mean": factor * costs**-0.5}).assign(low=0.0, high=1.0)
        for (name, costs), factor in zip(at.items(), (1.0, 1.1), strict=True)
    )
    over = over_unique(losses)
    assert over["at"].tolist() == [2.0, 8.0]  # within its curve
    assert over["mean"].tolist() == pytest.approx([10.0, 10.0])
    assert over["high"].tolist() == pytest.approx([100 * (2**0.5 - 1), 100 * (8**0.5 - 1)])
    assert over_unique(losses[losses["trainer"] == "elt"]).empty
