"""Scores of failure prediction against hand-worked cases, scipy, and every order that ties allow."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu, rankdata

from eltbench.evaluation.signals import selective
from eltbench.evidence.intervals import NonFiniteError


def random_case(seed, n=60, values=7):
    """Signals with ties, and losses."""
    rng = np.random.default_rng(seed)
    return rng.integers(values, size=n).astype(float), rng.gamma(2.0, size=n)


def naive_aurc(order, loss):
    """The definition, for one order of answering."""
    return np.mean([np.mean(loss[list(order[:k])]) for k in range(1, len(order) + 1)])


def test_aurc_of_a_case_worked_by_hand():
    signal, loss = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.0, 1.0, 0.0, 1.0])
    # Risks of the 1, 2, 3 and 4 most confident: 0, 1/2, 1/3, 1/2; of the best order: 0, 0, 1/3, 1/2.
    coverage, risk = selective.risk_coverage(signal, loss)
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1]
    np.testing.assert_allclose(risk, [0, 1 / 2, 1 / 3, 1 / 2])
    assert selective.aurc(signal, loss) == pytest.approx(1 / 3)
    assert selective.excess_aurc(signal, loss) == pytest.approx(1 / 8)


def test_aurc_with_ties_is_the_mean_over_every_order_that_they_allow():
    signal, loss = np.array([2.0, 1.0, 2.0, 1.0, 2.0, 3.0]), np.array([0.3, 2.0, 0.1, 0.7, 5.0, 1.1])
    orders = [order for order in permutations(range(6)) if (np.diff(signal[list(order)]) >= 0).all()]
    assert len(orders) == 12
    assert selective.aurc(signal, loss) == pytest.approx(np.mean([naive_aurc(order, loss) for order in orders]))


@given(seed=st.integers(0, 1000))
@settings(max_examples=20)
def test_a_constant_signal_has_the_base_risk_whatever_the_order_of_rows(seed):
    _, loss = random_case(seed)
    assert selective.aurc(np.ones(60), loss) == pytest.approx(loss.mean())


@given(seed=st.integers(0, 1000))
@settings(max_examples=20)
def test_no_order_beats_the_true_losses_and_only_ranks_matter(seed):
    signal, loss = random_case(seed)
    assert selective.excess_aurc(loss, loss) == 0
    assert selective.excess_aurc(signal, loss) >= -1e-12
    assert selective.aurc(np.exp(signal), loss) == pytest.approx(selective.aurc(signal, loss))
    shuffled = np.random.default_rng(seed).permutation(60)
    assert selective.aurc(signal[shuffled], loss[shuffled]) == pytest.approx(selective.aurc(signal, loss))


@given(seed=st.integers(0, 1000))
@settings(max_examples=20)
def test_auroc_is_the_mann_whitney_statistic_with_ties_as_half(seed):
    signal, loss = random_case(seed)
    event = loss > 2
    u = mannwhitneyu(signal[event], signal[~event]).statistic
    assert selective.auroc(signal, event) == pytest.approx(u / (event.sum() * (~event).sum()))


def test_auprc_of_a_case_worked_by_hand():
    # Down the list an event is found at ranks 1, 3 and 5 of 5, and its precision is then 1, 2/3 and 3/5.
    signal, event = np.array([5.0, 4, 3, 2, 1]), np.array([True, False, True, False, True])
    assert selective.auprc(signal, event) == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    assert selective.auprc(np.ones(5), event) == pytest.approx(3 / 5)


@given(seed=st.integers(0, 1000))
@settings(max_examples=20)
def test_spearman_is_the_correlation_of_ranks(seed):
    signal, loss = random_case(seed)
    expected = np.corrcoef(rankdata(signal), rankdata(loss))[0, 1]
    assert selective.spearman(signal, loss) == pytest.approx(expected)


def test_scores_that_are_not_defined_are_nan():
    signal, never = np.arange(5.0), np.zeros(5, bool)
    assert np.isnan(selective.auroc(signal, never))
    assert np.isnan(selective.auprc(signal, ~never))
    assert np.isnan(selective.spearman(np.ones(5), signal))
    assert np.isnan(selective.spearman(signal[:1], signal[:1]))


def test_the_event_is_an_error_above_the_quartile_that_another_split_states_for_the_stratum():
    rng = np.random.default_rng(0)
    strata = np.repeat([0, 1], 4000)
    fitted, judged = ((1 + 9 * strata) * rng.exponential(size=8000) for _ in range(2))
    thresholds = selective.upper_quartiles(fitted, strata)
    assert thresholds == pytest.approx({0: np.log(4), 1: 10 * np.log(4)}, rel=0.1)
    event = selective.above(judged, strata, thresholds)
    assert [event[strata == s].mean() for s in (0, 1)] == pytest.approx([0.25, 0.25], abs=0.03)
    with pytest.raises(ValueError, match=r"strata \[2\] have no threshold; those stated are \[0, 1\]"):
        selective.above(judged, strata + 1, thresholds)


def test_strata_of_corruption_are_equally_frequent_and_ordered():
    level = np.random.default_rng(0).random(10_000) ** 2
    strata = selective.level_strata(level, selective.level_edges(level, 5))
    assert np.bincount(strata).tolist() == [2000] * 5
    assert all(level[strata == s].max() <= level[strata == s + 1].min() for s in range(4))
    assert selective.level_strata(np.array([-1.0, 2.0]), selective.level_edges(level, 5)).tolist() == [0, 4]


def rows_by(rows, **wanted):
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def test_a_signal_that_only_knows_the_corruption_is_good_over_all_items_and_chance_within_strata():
    rng = np.random.default_rng(1)
    strata = np.repeat(np.arange(8), 500)
    level = strata + rng.random(4000)
    error = strata + rng.random(4000)  # grows with the stratum; within one, nothing to do with the level
    event = error > np.quantile(error, 0.75)  # over all items, so that the level foretells it
    within_events = selective.above(error, strata, selective.upper_quartiles(error, strata))
    (pooled,) = rows_by(selective.scores(level, error, event, strata), metric="auroc", scope="pooled")
    (within,) = rows_by(selective.scores(level, error, within_events, strata), metric="auroc", scope="within")
    (ranks,) = rows_by(selective.scores(level, error, event, strata), metric="spearman", scope="within")
    assert pooled["value"] > 0.95
    assert within["value"] == pytest.approx(0.5, abs=0.04)
    assert ranks["value"] == pytest.approx(0, abs=0.05)


def test_scores_within_strata_are_the_means_of_the_strata_weighted_by_items():
    signal, loss = random_case(4, n=90)
    strata, event = np.repeat([0, 1, 2], [50, 30, 10]), loss > 1.5
    rows = selective.scores(signal, loss, event, strata)
    assert len(rows) == 5 * (1 + 3 + 1)
    for metric in selective.HIGHER_IS_BETTER:
        parts = rows_by(rows, metric=metric, scope="stratum")
        assert [(row["stratum"], row["n_samples"]) for row in parts] == [(0, 50), (1, 30), (2, 10)]
        (within,) = rows_by(rows, metric=metric, scope="within")
        assert within["value"] == pytest.approx(np.average([row["value"] for row in parts], weights=[50, 30, 10]))
        alone = selective.METRICS[metric](signal[50:80], loss[50:80], event[50:80])
        assert parts[1]["value"] == pytest.approx(alone)


def test_a_stratum_without_an_event_is_left_out_of_the_mean_and_named():
    signal, loss = random_case(4)
    strata = np.repeat([0, 1], 30)
    event = (loss > 2) & (strata == 0)
    rows = selective.scores(signal, loss, event, strata)
    (within,) = rows_by(rows, metric="auroc", scope="within")
    assert within["value"] == pytest.approx(selective.auroc(signal[:30], event[:30]))
    assert (within["n_samples"], within["reason"]) == (30, "without strata [1], where it is not defined")
    (empty,) = rows_by(rows, metric="auroc", stratum=1)
    assert empty["reason"] == "no event or nothing else"
    assert np.isnan(empty["value"])


def test_a_value_that_is_not_finite_is_refused_with_its_item():
    signal, loss = random_case(4)
    signal[17] = np.nan
    with pytest.raises(NonFiniteError, match="signal is nan at item 17; 1 such items"):
        selective.scores(signal, loss, loss > 1, np.zeros(60, int))
    with pytest.raises(ValueError, match="one value an item"):
        selective.scores(signal, loss[:5], loss > 1, np.zeros(60, int))
    with pytest.raises(ValueError, match="at least one item"):
        selective.scores(*(np.zeros(0) for _ in range(4)))
