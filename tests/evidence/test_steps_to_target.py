"""When a target was reached, on curves whose crossing is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eltbench.evidence.steps_to_target import steps_to_target

STEPS = np.arange(75, 1501, 75)
FALLING = 0.5 * (STEPS / 75.0) ** -0.3
some_losses = st.lists(st.floats(0.01, 10), min_size=1, max_size=12)


def power_law(exponent, at=STEPS, scale=0.5):
    return scale * np.asarray(at, float) ** -exponent


@given(st.floats(0.01, 2), st.floats(80, 1500), st.integers(2, 200))
def test_a_power_law_is_crossed_exactly_whatever_the_checkpoints(exponent, crossing, every):
    at = np.arange(every, 1500 + every, every)
    at = at[at < 5000]
    target = 0.5 * crossing**-exponent
    found = steps_to_target(at, power_law(exponent, at), target)
    if at[0] < crossing * (1 - 1e-9) and crossing * (1 + 1e-9) < at[-1]:
        assert found.reached
        assert found.steps == pytest.approx(crossing, rel=1e-6)
        assert found.reason == ""


def test_between_two_checkpoints_the_log_of_the_loss_is_linear_in_the_log_of_the_step():
    found = steps_to_target([100, 400], [0.8, 0.2], 0.4)
    assert found.steps == pytest.approx(200)  # half of the way down in logarithms, half of the way along in logarithms


def test_a_target_that_a_checkpoint_meets_exactly_is_reached_there():
    assert steps_to_target([10, 20, 30], [3, 2, 1], 2).steps == pytest.approx(20)
    assert steps_to_target(STEPS, FALLING, FALLING[-1]).steps == pytest.approx(1500)  # its own end


def test_a_target_never_reached_counts_as_the_last_checkpoint_and_says_how_near_it_came():
    found = steps_to_target([10, 20, 30], [3, 2, 1.5], 1.2)
    assert found == (30, False, 1.5, "never reached, counts as 30 steps (ends at 1.5, the target is 1.2)")
    assert steps_to_target([10, 20, 30], [3, 2, 1.5], found.nearest).reached


def test_a_dip_that_is_lost_again_does_not_count_and_the_crossing_that_stays_does():
    steps, losses = [10, 20, 30, 40, 50], [4.0, 1.0, 4.0, 1.0, 0.5]
    found = steps_to_target(steps, losses, 2.0)
    assert 30 < found.steps < 40
    assert found.steps == pytest.approx(30 * (40 / 30) ** 0.5)


def test_a_loss_that_rises_again_above_the_target_counts_as_not_reached():
    found = steps_to_target([10, 20, 30], [3.0, 1.0, 1.4], 1.2)
    assert (found.steps, found.reached) == (30, False)
    assert found.reason.startswith("reached but lost again, counts as 30 steps")


def test_a_target_that_holds_from_the_start_counts_as_the_first_checkpoint():
    found = steps_to_target([10, 20], [0.5, 0.4], 0.6)
    assert (found.steps, found.reached) == (10, True)
    assert found.reason == "reached at or before the first checkpoint, step 10"
    assert steps_to_target([10], [0.5], 0.5).steps == 10


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_loss_or_target_that_is_no_number_gives_none(broken):
    found = steps_to_target([10, 20, 30], [3, broken, 1], 2)
    assert math.isnan(found.steps)
    assert not found.reached
    assert found.reason == f"the loss at step 20 is {broken}"
    assert steps_to_target([10], [3], broken).reason == f"the target is {broken}"


@given(some_losses, st.floats(0.01, 10))
def test_the_answer_lies_among_the_checkpoints_and_does_not_depend_on_units(losses, target):
    at = np.arange(1, len(losses) + 1) * 10
    found = steps_to_target(at, losses, target)
    assert at[0] * (1 - 1e-9) <= found.steps <= at[-1] * (1 + 1e-9)
    assert found.reached == (losses[-1] <= target)
    for loss_unit, step_unit in ((4.0, 1.0), (1.0, 64.0)):
        scaled = steps_to_target(at * step_unit, np.multiply(losses, loss_unit), target * loss_unit)
        assert scaled.steps == pytest.approx(found.steps * step_unit)


@given(some_losses, st.floats(0.01, 10), st.floats(1, 5))
def test_an_easier_target_is_never_reached_later(losses, target, easier):
    at = np.arange(1, len(losses) + 1) * 10
    assert steps_to_target(at, losses, target * easier).steps <= steps_to_target(at, losses, target).steps * (1 + 1e-9)


@pytest.mark.parametrize(
    ("steps", "losses", "target", "message"),
    [
        ([], [], 1, "one loss a checkpoint"),
        ([1, 2], [1], 1, r"shapes \(2,\) and \(1,\)"),
        ([0, 2], [2, 1], 1, "strictly increasing, given"),
        ([2, 2], [2, 1], 1, "strictly increasing"),
        ([1, 2], [2, 0], 1, "above zero"),
        ([1, 2], [2, 1], -1, "above zero"),
    ],
)
def test_what_is_no_curve_is_refused(steps, losses, target, message):
    with pytest.raises(ValueError, match=message):
        steps_to_target(steps, losses, target)
