"""The claims machinery by simulation: how often it is wrong must be the rate that it states.

Losses are simulated as exp(trainer + seed + rest): what a seed shares among trainers (batches, noise) cancels in the
pair, the rest does not. The draws are fixed, so each test passes or fails for good.
"""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from eltbench import studies
from eltbench.evidence.claims import Cell, Evidence, Witness, decide
from eltbench.evidence.intervals import log_ratio, pair_by_seed, paired_interval

DRAWS = 2000
CELL = Cell("diffusion", "digits", "torch")
SIX = studies.get("extrapolation").claims


def assert_rate(count, stated, *, at_most=False, draws=DRAWS):
    """The observed count is what `stated` gives (or less), within binomial error at one in a thousand."""
    alternative = "greater" if at_most else "two-sided"
    assert stats.binomtest(count, draws, stated, alternative=alternative).pvalue > 1e-3, count / draws


def losses(rng, shared, trainer=0.0):
    """One trainer's held-out loss by seed, in an order of its own."""
    series = pd.Series(np.exp(-1 + trainer + shared + rng.normal(scale=0.03, size=len(shared))))
    return series.sample(frac=1, random_state=rng)


def effects(rng, effect, seeds, size=1):
    return effect + rng.normal(scale=0.01, size=(size, seeds))


def nearly(region, towards):
    """A true effect a hair inside the region's bound, or exactly on it, which is outside."""
    bound, inwards = (region.high, -1) if math.isinf(region.low) else (region.low, 1)
    return bound + inwards * 1e-9 if towards == "inside" else bound


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5])
def test_two_copies_of_one_trainer_differ_at_the_stated_rate(seeds):
    rng = np.random.default_rng(seeds)
    differ = 0
    for _ in range(DRAWS):
        shared = rng.normal(scale=0.1, size=seeds)
        pairs = pair_by_seed(losses(rng, shared), losses(rng, shared))
        interval = paired_interval(log_ratio(pairs.numerator, pairs.denominator))
        differ += not interval.low <= 0 <= interval.high
    assert_rate(differ, 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_intervals_cover_the_true_effect_at_the_stated_rate(seeds, level):
    intervals = [paired_interval(x, level=level) for x in effects(np.random.default_rng(seeds), 0.3, seeds, DRAWS)]
    assert_rate(sum(interval.low <= 0.3 <= interval.high for interval in intervals), level)


def test_a_percentile_bootstrap_would_not_cover_at_three_seeds():
    samples = effects(np.random.default_rng(0), 0.3, 3, DRAWS)
    resamples = np.stack(np.meshgrid(*[range(3)] * 3), axis=-1).reshape(27, 3)  # all there are
    means = samples[:, resamples].mean(axis=-1)  # (DRAWS, 27)
    low, high = np.quantile(means, [0.025, 0.975], axis=1, method="inverted_cdf")
    assert_rate(int(np.sum((low <= 0.3) & (high >= 0.3))), 0.75)  # from least to greatest: 1 - 2/2³


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5])
def test_six_intervals_of_a_study_all_cover_at_the_stated_rate(seeds):
    rng = np.random.default_rng(10 + seeds)
    some_miss = 0
    for _ in range(DRAWS):
        intervals = [paired_interval(x, comparisons=6) for x in effects(rng, 0.0, seeds, 6)]
        some_miss += any(not interval.low <= 0 <= interval.high for interval in intervals)
    assert_rate(some_miss, 1 - (1 - 0.05 / 6) ** 6)  # independent effects; Bonferroni bounds it by 0.05
    assert_rate(some_miss, 0.05, at_most=True)


@pytest.mark.slow
@pytest.mark.parametrize(("towards", "wrong"), [("inside", "contradicted"), ("outside", "supported")])
def test_a_study_of_six_claims_is_wrong_anywhere_at_no_more_than_the_stated_rate(towards, wrong):
    rng = np.random.default_rng(20)
    any_wrong = 0
    for _ in range(DRAWS):
        verdicts = set()
        for claim in SIX:
            primary = {c.name: effects(rng, nearly(c.region, towards), 3)[0] for c in claim.conditions}
            verdicts.add(decide(claim, {CELL: Evidence(primary)}, comparisons=len(SIX)).verdict)
        any_wrong += wrong in verdicts
    assert_rate(any_wrong, 0.05, at_most=True)


@pytest.mark.slow
@pytest.mark.parametrize("claim", SIX, ids=lambda claim: claim.id)
@pytest.mark.parametrize(("towards", "wrong"), [("inside", "contradicted"), ("outside", "supported")])
def test_one_claim_on_its_bound_is_wrong_at_no_more_than_the_stated_rate(claim, towards, wrong):
    rng = np.random.default_rng(30)
    draws = 500
    found = 0
    for _ in range(draws):
        primary = {c.name: effects(rng, nearly(c.region, towards), 3)[0] for c in claim.conditions}
        found += decide(claim, {CELL: Evidence(primary)}, comparisons=1).verdict == wrong
    assert_rate(found, 0.05, at_most=True, draws=draws)
    if len(claim.conditions) == 1:
        assert_rate(found, 0.025, draws=draws)  # one bound: half of the two-sided rate, and no less


@pytest.mark.slow
def test_a_second_witness_does_not_make_wrong_verdicts_more_frequent():
    rng = np.random.default_rng(40)
    (elastic,) = (claim for claim in SIX if claim.id == "elastic")
    (half,) = elastic.conditions
    alone = both = 0
    for _ in range(DRAWS):
        primary = {"half": effects(rng, half.region.high, 3)[0]}
        second = Witness("kernel_distance", {"half": effects(rng, 0.05, 3)[0]}, margin=0.05)
        alone += decide(elastic, {CELL: Evidence(primary)}, comparisons=1).verdict == "supported"
        both += decide(elastic, {CELL: Evidence(primary, second)}, comparisons=1).verdict == "supported"
    assert both <= alone
    assert_rate(both, 0.025, at_most=True)


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "distance"), [(3, 6.3), (5, 2.2), (5, 4.0), (10, 1.0)])
def test_power_is_that_of_the_noncentral_t(seeds, distance):
    rng = np.random.default_rng(50 + seeds)
    (over_iteration,) = (claim for claim in SIX if claim.id == "over-iteration")
    (triple,) = over_iteration.conditions
    found = 0
    for x in effects(rng, triple.region.low + 0.01 * distance, seeds, DRAWS):
        found += decide(over_iteration, {CELL: Evidence({"triple": x})}, comparisons=6).verdict == "supported"
    critical = stats.t.isf(0.05 / 12, seeds - 1)
    expected = stats.nct.sf(critical, seeds - 1, distance * math.sqrt(seeds))
    assert_rate(found, float(expected))
