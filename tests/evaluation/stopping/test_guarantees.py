"""The p-values and procedures against MAPIE and exact binomials, and what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mapie.risk_control import control_fwer
from mapie.risk_control.methods import compute_hoeffding_bentkus_p_value, get_r_hat_plus
from scipy.stats import binom

from eltbench.evaluation.stopping.guarantees import (
    conformal_risk_control,
    excess_losses,
    hoeffding_bentkus,
    learn_then_test,
    running_worst,
    smallest_conformal,
    smallest_learn_then_test,
    split,
)
from eltbench.evidence.intervals import NonFiniteError


def growing_losses(seed, settings_=12, items=80):
    """Losses (K, n) in [0, 1] that grow with boldness, zero at the safest setting."""
    rng = np.random.default_rng(seed)
    steps = rng.random((settings_, items)) ** 6 * 0.3
    steps[0] = 0
    return np.minimum(steps.cumsum(axis=0), 1)


@given(seed=st.integers(0, 500), items=st.integers(5, 400), alpha=st.floats(0.01, 0.6))
@settings(max_examples=40)
def test_p_values_are_those_of_mapie(seed, items, alpha):
    risk = np.random.default_rng(seed).random(6)
    expected = compute_hoeffding_bentkus_p_value(risk, items, alpha)[:, 0]
    np.testing.assert_allclose(hoeffding_bentkus(risk * items, items, alpha), np.minimum(expected, 1), rtol=1e-9)


@pytest.mark.parametrize(("items", "alpha"), [(30, 0.1), (200, 0.05), (59, 0.3)])
def test_p_values_of_zero_one_losses_are_never_below_the_exact_ones(items, alpha):
    """At a risk of exactly α the chance of a p-value ≤ u is at most u, summed over all binomial outcomes."""
    failures = np.arange(items + 1)
    p_values = hoeffding_bentkus(failures, items, alpha)
    assert (p_values >= binom.cdf(failures, items, alpha) - 1e-12).all()
    chance = binom.pmf(failures, items, alpha)
    for level in np.linspace(0.001, 0.999, 200):
        assert chance[p_values <= level].sum() <= level


def test_without_a_failure_the_p_value_is_the_chance_of_none():
    np.testing.assert_allclose(hoeffding_bentkus(np.zeros(1), 40, 0.07), 0.93**40)


@pytest.mark.parametrize("seed", range(20))
def test_learn_then_test_accepts_what_mapies_fixed_sequence_accepts(seed):
    losses = np.random.default_rng(seed).random((10, 150)) ** 8 * np.linspace(0, 1.5, 10)[:, None].clip(max=1)
    found = learn_then_test(losses, 0.1, 0.1)
    p_values = compute_hoeffding_bentkus_p_value(losses.mean(axis=1), 150, 0.1)[:, 0]
    accepted = control_fwer(p_values, 0.1, "fixed_sequence")
    assert found.index == (accepted[-1] if len(accepted) else None)
    np.testing.assert_allclose(found.evidence, np.minimum(p_values, 1))


@pytest.mark.parametrize("seed", range(20))
def test_conformal_risk_control_compares_the_bound_of_mapie(seed):
    losses = growing_losses(seed)
    found = conformal_risk_control(losses, 0.1)
    risks, bounds = get_r_hat_plus(losses.T, np.arange(12), "crc", None, None, None)
    np.testing.assert_allclose(found.evidence, bounds)
    np.testing.assert_allclose(found.risks, risks)
    assert found.index == np.flatnonzero(bounds <= 0.1)[-1]


def test_a_bound_other_than_one_scales_losses_and_level_together():
    losses = growing_losses(3)
    for control in (conformal_risk_control, lambda *of: learn_then_test(of[0], of[1], 0.1, of[2])):
        unit, scaled = control(losses, 0.1, 1.0), control(7 * losses, 0.7, 7.0)
        assert unit.index == scaled.index
        assert unit.index not in (None, 0, 11)
        np.testing.assert_allclose(scaled.risks, 7 * unit.risks)


def test_learn_then_test_stops_at_the_first_setting_it_cannot_accept():
    losses = np.zeros((5, 100))
    losses[2] = 1.0
    found = learn_then_test(losses, 0.1, 0.1)
    assert found.index == 1  # settings 3 and 4 lose nothing, but come after
    assert (found.evidence[3:] <= 0.1).all()


def test_where_not_even_the_safest_setting_can_be_accepted_there_is_none():
    found = learn_then_test(np.ones((3, 100)), 0.1, 0.1)
    assert found.index is None


@pytest.mark.parametrize(
    ("alpha", "delta", "items"), [(0.1, 0.1, 22), (0.05, 0.1, 45), (0.05, 0.05, 59), (0.01, 0.1, 230), (0.5, 0.5, 1)]
)
def test_the_smallest_calibration_set_of_learn_then_test_is_just_enough(alpha, delta, items):
    assert smallest_learn_then_test(alpha, delta) == items
    assert learn_then_test(np.zeros((2, items)), alpha, delta).index == 1
    if items > 1:
        assert hoeffding_bentkus(np.zeros(1), items - 1, alpha)[0] > delta
        with pytest.raises(ValueError, match=f"takes at least {items} calibration items, given {items - 1}"):
            learn_then_test(np.zeros((2, items - 1)), alpha, delta)


@pytest.mark.parametrize(("alpha", "items"), [(0.1, 9), (0.05, 19), (0.3, 3), (0.01, 99), (0.7, 1), (0.07, 14)])
def test_the_smallest_calibration_set_of_conformal_risk_control_is_just_enough(alpha, items):
    assert smallest_conformal(alpha) == items
    assert conformal_risk_control(np.zeros((2, items)), alpha).index == 1
    if items > 1:
        with pytest.raises(ValueError, match=f"takes at least {items} calibration items, given {items - 1}"):
            conformal_risk_control(np.zeros((2, items - 1)), alpha)


@given(alpha=st.floats(0.001, 0.9), delta=st.floats(0.001, 0.9), bound=st.floats(1.0, 20.0))
def test_the_smallest_sets_are_those_of_the_closed_forms(alpha, delta, bound):
    assert abs(smallest_conformal(alpha, bound) - max(1, np.ceil(bound / alpha) - 1)) <= 1
    closed = np.ceil(np.log(delta) / np.log(1 - alpha / bound))
    assert abs(smallest_learn_then_test(alpha, delta, bound) - max(1, closed)) <= 1


def test_losses_that_fall_are_refused_by_conformal_risk_control_and_mended_by_their_running_worst():
    losses = np.zeros((4, 50))
    losses[1, 7], losses[3, :3] = 0.5, 1.0
    with pytest.raises(ValueError, match="that of item 7 falls from setting 1 to 2"):
        conformal_risk_control(losses, 0.1)
    worst = running_worst(losses)
    assert worst[:, 7].tolist() == [0, 0.5, 0.5, 0.5]
    assert (worst >= losses).all()
    assert conformal_risk_control(worst, 0.1).index == 3
    assert learn_then_test(losses, 0.1, 0.1).index == 2


def test_a_safest_setting_that_loses_too_much_is_refused_by_conformal_risk_control():
    losses = np.zeros((2, 50))
    losses[:, 3] = 0.2
    with pytest.raises(ValueError, match=r"safest setting that never loses more than alpha = 0.1, but it loses 0.2 at"):
        conformal_risk_control(losses, 0.1)


@pytest.mark.parametrize(
    "control", [lambda losses: conformal_risk_control(losses, 0.1), lambda losses: learn_then_test(losses, 0.1, 0.1)]
)
def test_impossible_losses_are_refused(control):
    losses = np.zeros((2, 50))
    losses[1, 7] = np.nan
    with pytest.raises(NonFiniteError, match="loss of item 7 is nan at setting 1"):
        control(losses)
    losses[1, 7] = 1.5
    with pytest.raises(ValueError, match=r"lie in \[0, 1.0\], but that of item 7 is 1.5 at setting 1"):
        control(losses)
    with pytest.raises(ValueError, match=r"\(settings, items\), given shape \(50,\)"):
        control(np.zeros(50))


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, float("nan")])
def test_impossible_levels_are_refused(level):
    with pytest.raises(ValueError, match=r"alpha must lie between 0 and 1\.0"):
        smallest_conformal(level)
    with pytest.raises(ValueError, match=r"delta must lie between 0 and 1\.0"):
        smallest_learn_then_test(0.1, level)


def test_excess_losses_are_above_the_deepest_exit_and_within_the_bound():
    errors = np.array([[3.0, 1.0, 0.9], [2.0, 0.2, 0.4], [1.0, 0.5, 0.4]])
    stop = np.array([[2, 2, 2], [1, 1, 1], [0, 1, 2]])
    np.testing.assert_allclose(excess_losses(errors, stop, 1.5), [[0, 0, 0], [1, 0, 0], [1.5, 0, 0]])


def test_a_split_shares_no_item_and_keeps_one_corruption_of_each_where_guarantees_are_made_and_tested():
    items = np.tile(np.arange(200), 4)  # four corruptions of each
    fit, calibrate, test = split(items, np.random.default_rng(0), (0.5, 0.3, 0.2))
    parts = [set(items[part]) for part in (fit, calibrate, test)]
    assert [len(part) for part in parts] == [100, 60, 40]
    assert len(set.union(*parts)) == 200
    assert (len(fit), len(calibrate), len(test)) == (400, 60, 40)
    assert len({int(row) // 200 for row in calibrate}) == 4  # corruptions of every kind
    with pytest.raises(ValueError, match="three shares that sum to one"):
        split(items, np.random.default_rng(0), (0.5, 0.3, 0.3))


def test_splits_are_uniform_over_items_and_corruptions():
    items, counts = np.repeat(np.arange(6), 3), np.zeros(18)
    for seed in range(3000):
        counts[split(items, np.random.default_rng(seed), (0, 0.5, 0.5))[1]] += 1
    np.testing.assert_allclose(counts / 3000, 1 / 6, atol=0.03)
