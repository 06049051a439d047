"""Pairing by seed, intervals and effect sizes, against scipy's own test and printed t tables."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from eltbench.evidence.intervals import NonFiniteError, cohens_dz, log_ratio, pair_by_seed, paired_interval, percent

effects = st.lists(st.floats(-1e3, 1e3).map(lambda x: round(x, 6)), min_size=2, max_size=12)


def test_the_interval_is_the_one_of_the_printed_t_table():
    interval = paired_interval([1.0, 2.0, 3.0])  # sd 1, t(0.975; 2) = 4.302653
    assert interval.estimate == 2
    assert interval.high - 2 == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert interval.n == 3
    assert interval.level == pytest.approx(0.95)


@pytest.mark.parametrize("n", [2, 3, 5, 20])
@pytest.mark.parametrize("comparisons", [1, 6])
def test_the_interval_equals_that_of_the_paired_t_test(n, comparisons):
    first, second = np.random.default_rng(n).normal(size=(2, n))
    interval = paired_interval(first - second, level=0.9, comparisons=comparisons)
    expected = stats.ttest_rel(first, second).confidence_interval(1 - 0.1 / comparisons)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))
    assert interval.level == pytest.approx(1 - 0.1 / comparisons)


@pytest.mark.parametrize(("seeds", "needed"), [(3, 6.3), (5, 2.2)])
def test_with_six_claims_a_verdict_needs_the_documented_effect(seeds, needed):
    spread = np.linspace(-1, 1, seeds)
    spread /= spread.std(ddof=1)
    assert paired_interval(spread + needed, comparisons=6).low > 0
    assert paired_interval(spread + needed - 0.1, comparisons=6).low < 0


@pytest.mark.parametrize(("differences", "estimate"), [([], math.nan), ([0.4], 0.4)])
def test_below_two_seeds_the_interval_is_infinite(differences, estimate):
    interval = paired_interval(differences)
    assert (interval.low, interval.high, interval.n) == (-math.inf, math.inf, len(differences))
    assert interval.estimate == pytest.approx(estimate, nan_ok=True)


@pytest.mark.parametrize("n", [2, 3, 7])
def test_seeds_that_agree_exactly_give_an_interval_without_width(n):
    interval = paired_interval([0.1] * n)  # the mean of 0.1 three times rounds to another number
    assert interval.low == interval.estimate == interval.high == 0.1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("function", [paired_interval, cohens_dz])
def test_a_value_that_is_not_finite_is_refused_by_its_position(function, value):
    with pytest.raises(NonFiniteError, match="value 1 of the differences"):
        function([0.1, value, 0.3])


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="level must lie between 0 and 1, given 95"):
        paired_interval([1.0, 2.0], level=95)
    with pytest.raises(ValueError, match="comparisons must be at least 1, given 0"):
        paired_interval([1.0, 2.0], comparisons=0)
    with pytest.raises(ValueError, match=r"shape \(n,\), given \(1, 2\)"):
        paired_interval([[1.0, 2.0]])


@given(effects, st.floats(-100, 100).map(lambda x: round(x, 3)))
def test_the_interval_moves_with_the_effect_and_mirrors_with_its_sign(values, shift):
    base = paired_interval(values)
    moved, mirrored = paired_interval(np.add(values, shift)), paired_interval(np.negative(values))
    assert (moved.low, moved.high) == pytest.approx((base.low + shift, base.high + shift), abs=1e-6)
    assert (mirrored.low, mirrored.high) == pytest.approx((-base.high, -base.low), abs=1e-9)


@given(effects, st.randoms(use_true_random=False), st.integers(1, 20))
def test_the_interval_ignores_the_order_of_seeds_and_widens_with_comparisons(values, random, comparisons):
    shuffled = random.sample(values, len(values))
    base, widened = paired_interval(values), paired_interval(shuffled, comparisons=comparisons)
    assert widened.low <= base.low + 1e-9
    assert widened.high >= base.high - 1e-9
    assert widened.estimate == pytest.approx(base.estimate, abs=1e-9)
    assert widened.low <= widened.estimate <= widened.high


def test_pairs_meet_by_seed_and_not_by_position():
    pairs = pair_by_seed(pd.Series({2: 20.0, 0: 0.0, 1: 10.0}), pd.Series({0: 1.0, 1: 11.0, 2: 21.0}))
    assert pairs.seeds == (0, 1, 2)
    np.testing.assert_array_equal(pairs.denominator - pairs.numerator, [1, 1, 1])
    assert pairs.dropped == ()


def test_a_lone_seed_is_refused_or_dropped_and_named():
    left, right = pd.Series({0: 1.0, 1: 2.0}), pd.Series({1: 3.0, 4: 4.0})
    with pytest.raises(ValueError, match=r"\[0\] are only in the numerator, \[4\] only in the denominator"):
        pair_by_seed(left, right)
    pairs = pair_by_seed(left, right, allow_lone=True)
    assert (pairs.seeds, pairs.dropped) == ((1,), (0, 4))
    assert (pairs.numerator.tolist(), pairs.denominator.tolist()) == ([2.0], [3.0])


def test_a_seed_that_counts_twice_is_refused():
    twice = pd.Series([1.0, 2.0, 3.0], index=[0, 1, 1])
    with pytest.raises(ValueError, match=r"the denominator has several values for seeds \[1\]"):
        pair_by_seed(pd.Series({0: 1.0, 1: 2.0}), twice)


def test_no_common_seed_gives_no_pairs():
    pairs = pair_by_seed(pd.Series({0: 1.0}), pd.Series({1: 1.0}), allow_lone=True)
    assert (len(pairs.numerator), pairs.seeds, pairs.dropped) == (0, (), (0, 1))


def test_a_log_ratio_means_its_percentage():
    ratios = log_ratio([1.02, 2.0, 0.995], [1.0, 1.0, 1.0])
    assert [percent(ratio) for ratio in ratios] == pytest.approx([2, 100, -0.5])
    assert percent(1e4) == math.inf


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=8))
def test_swapping_the_sides_flips_a_log_ratio(values):
    ones = np.ones(len(values))
    np.testing.assert_allclose(log_ratio(values, ones), -log_ratio(ones, values), atol=1e-12)


@pytest.mark.parametrize("value", [0.0, -0.3])
def test_a_log_ratio_of_zero_or_below_is_refused_in_favour_of_the_difference(value):
    with pytest.raises(ValueError, match=r"value 1 of the denominator .* use the additive difference"):
        log_ratio([1.0, 1.0], [1.0, value])


def test_a_log_ratio_of_different_seeds_or_shapes_is_refused():
    with pytest.raises(ValueError, match="pair_by_seed first"):
        log_ratio(pd.Series({0: 1.0, 1: 2.0}), pd.Series({1: 1.0, 0: 2.0}))
    with pytest.raises(ValueError, match="differ in shape"):
        log_ratio([1.0, 2.0, 3.0], [1.0])


def test_a_diverged_model_reaches_the_interval_and_is_refused_there():
    ratios = log_ratio([1.0, math.inf, math.inf], [1.0, 1.0, math.inf])
    with pytest.raises(NonFiniteError, match="value 1 of the differences is inf"):
        paired_interval(ratios)


@pytest.mark.parametrize("n", [2, 3, 10])
def test_effect_size_times_root_n_is_the_t_statistic(n):
    differences = np.random.default_rng(n).normal(0.5, size=n)
    assert cohens_dz(differences) * math.sqrt(n) == pytest.approx(stats.ttest_1samp(differences, 0).statistic)


def test_the_effect_size_of_seeds_that_agree_is_infinite_or_undefined():
    assert cohens_dz([-0.1] * 3) == -math.inf
    assert math.isnan(cohens_dz([0.0] * 3))
    assert math.isnan(cohens_dz([0.2]))
    assert cohens_dz([1e-200, 3e-200]) == math.inf  # they differ by less than a float can square
