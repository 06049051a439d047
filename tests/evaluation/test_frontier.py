"""Pareto front, hypervolume and area against counting on a grid, and against figures drawn by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eltbench.evaluation.frontier import area_under_curve, hypervolume, monotonicity_violations, pareto_front

SIDE = 8  # points lie on whole numbers, so that areas can be counted in unit squares
POINTS = st.lists(st.tuples(st.integers(1, SIDE), st.integers(1, SIDE)), min_size=1, max_size=12)


def beaten(point, by):
    return by[0] <= point[0] and by[1] <= point[1] and by != point


def split(points):
    return [cost for cost, _ in points], [loss for _, loss in points]


# The front


@given(POINTS)
def test_the_front_holds_the_points_that_none_beats(points):
    assert list(pareto_front(*split(points))) == [not any(beaten(it, other) for other in points) for it in points]


@given(POINTS, st.randoms())
def test_the_front_does_not_depend_on_order_or_on_rescaling(points, random):
    cost, loss = split(points)
    order = list(range(len(points)))
    random.shuffle(order)
    shuffled = pareto_front(np.log([cost[i] for i in order]), np.square([loss[i] for i in order]))
    assert list(shuffled) == list(pareto_front(cost, loss)[order])


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_on_no_front_and_beats_nothing(broken):
    assert list(pareto_front([1, 1, 2], [broken, 3, 2])) == [False, True, True]
    assert not pareto_front([1], [broken]).any()


# The hypervolume


@given(POINTS)
def test_the_hypervolume_is_the_number_of_unit_squares_that_the_points_dominate(points):
    reference = SIDE - 1, SIDE - 2  # some points lie beyond it
    squares = [(x, y) for x in range(reference[0]) for y in range(reference[1])]
    dominated = sum(any(cost <= x and loss <= y for cost, loss in points) for x, y in squares)
    assert hypervolume(*split(points), reference) == pytest.approx(dominated)


def test_the_hypervolume_of_one_point_is_a_rectangle_and_beyond_the_reference_nothing():
    assert hypervolume([2.0], [0.5], (5.0, 2.5)) == pytest.approx(6.0)
    assert hypervolume([5.0, 6.0], [0.5, 0.1], (5.0, 2.5)) == 0
    assert hypervolume([math.log(2)], [math.nan], (5.0, 2.5)) == 0


# What a budget buys


@given(POINTS, st.integers(2, SIDE), st.integers(1, 4))
def test_the_area_is_the_mean_over_budgets_of_the_best_loss_affordable(points, cheapest, more):
    dearest = cheapest + more
    area = area_under_curve(*split(points), cheapest, dearest)
    costs = [cost for cost, _ in points]
    if min(costs) > cheapest:
        assert math.isnan(area)
        return
    best = [min(loss for cost, loss in points if cost <= budget) for budget in range(cheapest, dearest)]
    weights = np.diff(np.log(range(cheapest, dearest + 1)))  # what is affordable changes at whole numbers only
    assert area == pytest.approx(np.average(best, weights=weights))


def test_a_doubling_of_cost_counts_alike_wherever_it_is():
    assert area_under_curve([1, 2, 4], [0.6, 0.4, 0.2], 1, 8) == pytest.approx(0.4)
    assert area_under_curve([1000, 2000, 4000], [0.6, 0.4, 0.2], 1000, 8000) == pytest.approx(0.4)


# Monotonicity


@pytest.mark.parametrize(
    ("losses", "violations"),
    [
        ([3, 2, 1], 0),
        ([3, 3, 3], 0),  # no rise
        ([1, 2, 3], 2),
        ([3, 1, 2, 0.5, 0.6], 2),
        ([0.5], 0),
        ([], 0),
        ([3, math.nan, 1], 1),  # to the diverged exit, not back from it
        ([3, math.inf, math.inf], 2),
        ([math.nan, 1], 0),
    ],
)
def test_a_violation_is_a_step_at_which_the_loss_rises_or_is_not_finite(losses, violations):
    assert monotonicity_violations(losses) == violations


# Refusals


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pareto_front([1, 2], [1]), r"one length, given \(2,\) and \(1,\)"),
        (lambda: pareto_front([[1]], [[1]]), "must be sequences"),
        (lambda: pareto_front([1, math.nan], [1, 2]), "every cost must be finite, given nan"),
        (lambda: hypervolume([math.inf], [1], (2, 2)), "every cost must be finite, given inf"),
        (lambda: area_under_curve([1], [1], 2, 2), "expected 0 < cheapest < dearest, given 2 and 2"),
        (lambda: area_under_curve([1], [1], 0, 2), "expected 0 < cheapest < dearest"),
        (lambda: area_under_curve([1], [1], 1, math.inf), "expected 0 < cheapest < dearest"),
        (lambda: monotonicity_violations([[1, 2]]), r"a sequence, shape \(n,\), given \(1, 2\)"),
    ],
)
def test_what_is_no_set_of_points_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
