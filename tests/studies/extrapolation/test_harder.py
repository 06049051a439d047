"""Claims on harder puzzles: what is compared, at which exit, and where nothing can be said."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_rows import frame, losses

from eltbench import studies
from eltbench.evaluation.solving import AS_TRAINED, HARDER
from eltbench.studies.deciding import decide_all
from eltbench.studies.extrapolation import harder

SEEDS = 5
STUDY = studies.create("extrapolation")
RISING = {1: 0.1, 4: 0.4, 8: 0.6, 16: 0.7}
FALLING = {1: 0.1, 4: 0.4, 8: 0.2, 16: 0.05}


def shares(curve, trainer="elt", role="main", spread=0.004, **known):
    """Solved shares of one trainer by loops, of five seeds that differ a little."""
    return [
        {
            "trainer": trainer,
            "role": role,
            "task": "masked",
            "dataset": "maze",
            "seed": seed,
            "metric": "solved",
            "stratum": HARDER,
            "loops": loops,
            "value": value and value + spread * (seed - 2) * loops / 4,
            **known,
        }
        for loops, value in curve.items()
        for seed in range(SEEDS)
    ]


def verdicts(*rows) -> dict:
    table = frame([row for part in rows for row in part])
    return {decision.claim.id: decision for decision in decide_all(STUDY, table, presets=None, smoke=False)}


@pytest.mark.parametrize(("curve", "verdict"), [(RISING, "supported"), (FALLING, "contradicted")])
def test_more_loops_than_trained_solve_more_or_do_not(curve, verdict):
    decision = verdicts(shares(curve))["harder-by-loops"]
    assert decision.verdict == verdict
    (cell,) = decision.cells
    assert cell.conditions[0].primary.interval.estimate == pytest.approx(curve[8] - curve[4], abs=1e-9)


def test_recall_is_judged_beside_the_model_without():
    found = verdicts(shares(FALLING), shares(RISING, role="recall"))["recall-prevents-overthinking"]
    assert found.verdict == "supported"
    both = found.cells[0].conditions
    assert [round(each.primary.interval.estimate, 3) for each in both] == [0.0, round(0.05 - 0.4, 3)]
    assert verdicts(shares(FALLING))["recall-prevents-overthinking"].cells == ()


def test_a_seed_does_not_choose_its_own_best_exit():
    """Each seed is best at another exit, by chance; chosen by the others, the gain of choosing is not there."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(SEEDS, 16)) * 0.05
    table = frame(
        row
        for seed in range(SEEDS)
        for row in shares({at: 0.5 + noise[seed, at - 1] for at in range(1, 17)}, spread=0)[seed::SEEDS]
    )
    found = harder._shares(table, harder.Solving("elt"))
    assert (found <= 0.5 + noise.max(axis=1)).all()
    for seed in range(SEEDS):
        others = np.delete(noise, seed, axis=0).mean(axis=0)
        assert found[seed] == pytest.approx(0.5 + noise[seed, others.argmax()])


def test_rivals_are_compared_each_at_its_own_best_exit():
    rivals = [
        shares(curve, trainer)
        for trainer, curve in (("no-ilsd", {4: 0.3}), ("progressive", FALLING), ("random-loops", {1: 0.9, 4: 0.1}))
    ]
    decision = verdicts(shares(FALLING), *rivals)["ilsd-generalises"]
    effects = {each.condition.name: each.primary.interval.estimate for each in decision.cells[0].conditions}
    assert effects == pytest.approx({"no-ilsd": 0.1, "progressive": 0.0, "random-loops": -0.5}, abs=1e-9)
    assert decision.verdict == "contradicted"


def test_where_nothing_harder_is_solved_nothing_is_said():
    decision = verdicts(shares(dict.fromkeys(RISING, 0.0)))["harder-by-loops"]
    assert decision.verdict == "inconclusive"
    assert "no harder item is solved" in decision.reason


def test_a_seed_whose_solving_failed_gives_no_verdict_also_where_one_model_is_compared_with_itself():
    """Its other rows are there; without it the others would decide, and those that fail may differ from them."""
    failed = losses({4: 0.5}, task="masked", dataset="maze", seed=7)
    rank = {"task": "masked", "dataset": "maze", "metric": "first_exit_by_difficulty"}
    ranks = [{**rank, "seed": seed, "value": 0.5 + seed / 50} for seed in range(SEEDS)]
    found = verdicts(shares(RISING), ranks, failed)
    for claim in ("harder-by-loops", "depth-by-difficulty"):
        assert found[claim].verdict == "inconclusive"
        assert "seeds [7] lack one side" in found[claim].reason


def test_the_first_exit_is_judged_by_its_correlation_with_difficulty():
    rows = [
        {
            "task": "masked",
            "dataset": "maze",
            "seed": seed,
            "metric": "first_exit_by_difficulty",
            "value": 0.5 + seed / 50,
        }
        for seed in range(SEEDS)
    ]
    assert verdicts(rows, shares(RISING))["depth-by-difficulty"].verdict == "supported"


def test_the_claims_of_losses_are_widened_as_before():
    """A family of its own: claims on puzzles take no precision from those on losses."""
    assert {decision.claim.family for decision in verdicts(losses({2: 1.0, 4: 0.9})).values()} == {""}
    found = verdicts(shares(RISING))
    widened = {decision.claim.family: decision.comparisons for decision in found.values()}
    assert widened == {"": 6, "solving": len(harder.CLAIMS)}


def solving(levels, trained):
    """Solved shares by difficulty: level d is solved from exit d on; `trained` items are no harder than trained on."""
    known = {"task": "masked", "dataset": "maze", "metric": "solved", "seed": 0}
    exits = (1, 2, 3, 4, 8)
    rows = [
        {**known, "loops": at, "stratum": f"difficulty {level}", "value": float(at >= level), "n_samples": 10 * level}
        for at in exits
        for level in levels
    ]
    rows += [{**known, "loops": at, "stratum": AS_TRAINED, "value": 0.5, "n_samples": trained} for at in exits]
    rows += [{**known, "loops": at, "stratum": HARDER, "value": at / 10, "n_samples": 70} for at in exits]
    return rows + losses({at: 1 / at for at in exits}, task="masked", dataset="maze")


def test_the_figure_shows_solving_by_difficulty_and_loops_with_what_was_trained():
    losses_, harder_, heat = STUDY.figure(frame(solving((1, 2, 3, 4), trained=30))).axes[:3]
    assert harder_.get_title() == "masked · maze"
    (line,) = [line for line in harder_.get_lines() if len(line.get_xdata()) > 2]
    assert np.array_equal(line.get_ydata(), np.array([1, 2, 3, 4, 8]) / 10)
    shares = heat.collections[0].get_array().reshape(4, 5)  # difficulty × exits
    assert np.array_equal(shares, [[at >= level for at in (1, 2, 3, 4, 8)] for level in (1, 2, 3, 4)])
    deepest, hardest = heat.get_lines()
    assert deepest.get_xdata()[0] == 4.5  # L_max = 4 lies left of it
    assert hardest.get_ydata()[0] == 1.5  # 10 + 20 items of difficulties 1 and 2 are all that is as hard as trained
    assert len(losses_.get_lines()) > 0
