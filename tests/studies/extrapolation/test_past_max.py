"""The table of what models do past L_max, against hand-worked ratios and scipy."""

from __future__ import annotations

import math

from scipy import stats
from synthetic_rows import frame, losses

from eltbench.studies.extrapolation.past_max import markdown

ELT = {4: 1.0, 8: 1.1, 12: 1.21}


def lines(*rows):
    table = markdown(frame([row for part in rows for row in part]))
    _, _, *body = table.splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in body]


def test_ratios_are_to_the_own_loss_at_l_max_and_to_elts():
    toggled = losses({4: 0.9, 8: 0.99, 12: 0.9}, role="input-injection")
    elt, other = lines(losses(ELT), toggled)
    assert elt == ["diffusion digits torch", "elt", "–", "+10.00 %", "+21.00 %", "–", "1"]
    assert other == ["", "elt (input-injection)", "-10.00 %", "+10.00 %", "+0.00 %", "-17.36 %", "1"]
    assert math.isclose(1 / 1.21 - 1, -0.1736, abs_tol=5e-5)


def test_intervals_are_students_t_over_paired_seeds():
    past = [1.1, 1.2, 1.4]
    (elt,) = lines(*(losses({4: 2.0, 8: 2.0, 12: 2.0 * by}, seed=seed) for seed, by in enumerate(past)))
    logs = [math.log(by) for by in past]
    low, high = stats.t.interval(0.95, 2, loc=sum(logs) / 3, scale=stats.sem(logs))
    estimate = math.exp(sum(logs) / 3)
    assert elt[4] == f"{100 * (estimate - 1):+.2f} % [{100 * math.expm1(low):+.2f} %, {100 * math.expm1(high):+.2f} %]"


def test_models_of_another_size_or_without_later_exits_say_so_or_are_left_out():
    deeper = losses(ELT, role="dedicated", max_loops=2)
    diverged = losses({4: 1.0, 8: math.inf, 12: math.inf}, trainer="no-ilsd")
    unread = losses({4: 1.0}, trainer="random-loops")
    found = lines(losses(ELT), deeper, diverged, unread)
    assert [line[1] for line in found] == ["elt", "no-ilsd", "random-loops"]
    assert found[1][3:6] == ["not a finite number in every seed"] * 3
    assert found[2][3:6] == ["not measured"] * 3


def test_a_model_of_more_loops_is_asked_at_its_own_l_max():
    further = losses({4: 3.0, 12: 0.9, 24: 0.945, 36: 0.99}, trainer="deq", role="12-iterations", max_loops=12)
    _, other = lines(losses(ELT), further)
    assert other == ["", "deq (12-iterations)", "-10.00 %", "+5.00 %", "+10.00 %", "-9.09 %", "1"]


def test_a_world_without_elt_has_no_line():
    assert lines(losses(ELT, trainer="no-ilsd")) == []
