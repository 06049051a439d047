"""Risk–coverage curves against sorting by hand, and what they must be for signals of known worth."""

from __future__ import annotations

import numpy as np

from eltbench.evaluation.signals import risk_coverage
from eltbench.evaluation.signals.per_sample import PerSample
from eltbench.evaluation.signals.risk_coverage import COVERAGES, HEADLINE, at_coverages

RNG = np.random.default_rng(0)
N = 397  # no multiple of ten
ERROR, SIGNAL = RNG.random(N), RNG.random(N)
WHOLE = np.zeros(N, int)


def test_a_risk_is_the_mean_error_of_the_fewest_surest_items_that_make_the_share():
    surest = ERROR[np.argsort(SIGNAL)]
    by_hand = [surest[: int(np.ceil(share * N))].mean() for share in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)]
    np.testing.assert_allclose(at_coverages(SIGNAL, ERROR, WHOLE), by_hand)


def test_all_of_a_stratum_of_one_item_is_kept_and_strata_count_by_their_items():
    strata = np.array([0, 1, 1, 1, 1])
    risks = at_coverages(np.array([9.0, 4, 3, 2, 1]), np.array([1.0, 4, 3, 2, 1]), strata)
    assert risks[0] == (1 * 1 + 4 * 1) / 5
    assert risks[4] == (1 * 1 + 4 * 1.5) / 5  # coverage 0.5
    assert risks[-1] == 11 / 5


def test_a_signal_that_says_nothing_has_a_level_curve_and_none_lies_below_the_oracles():
    assert np.ptp(at_coverages(np.ones(N), ERROR, WHOLE)) < 1e-12
    assert (at_coverages(ERROR, ERROR, WHOLE) <= at_coverages(SIGNAL, ERROR, WHOLE) + 1e-12).all()


def test_what_rediscovers_the_corruption_gains_over_all_items_and_nothing_within_strata():
    level = np.repeat(np.arange(4), 100)
    error = level.astype(float)
    pooled, within = (at_coverages(level.astype(float), error, strata) for strata in (np.zeros(400, int), level))
    assert pooled[0] == 0
    np.testing.assert_allclose(within, error.mean())


def test_rows_hold_headline_signals_at_every_exit_and_what_takes_more_at_the_deepest():
    told = np.tile(SIGNAL, (2, 1))
    silent = np.full((2, N), np.nan)
    signals = {"entropy": told, "argmax_flips": told, "ensemble_entropy": told, "relative_update_norm": silent}
    zeros = np.zeros(N, int)
    errors = {"negative_log_likelihood": np.stack([ERROR + 1, ERROR])}
    observed = PerSample((1, 2), np.arange(N), zeros, zeros - 1, RNG.random(N), errors, signals)
    test, strata = np.arange(100, N), np.arange(N) % 3
    rows = risk_coverage.rows(observed, test, strata, 2, {"probe_logistic": SIGNAL})
    curves = {(row["loops"], row["signal"]) for row in rows}
    assert curves == {
        (1, "entropy"),
        (1, "oracle"),
        (2, "entropy"),
        (2, "oracle"),
        (2, "ensemble_entropy"),
        (2, "probe_logistic"),
    }
    assert "argmax_flips" not in HEADLINE
    for scope in ("pooled", "within"):
        curve = [row for row in rows if (row["loops"], row["signal"], row["scope"]) == (2, "entropy", scope)]
        assert tuple(row["coverage"] for row in curve) == COVERAGES
        groups = WHOLE if scope == "pooled" else strata
        np.testing.assert_allclose(
            [row["value"] for row in curve], at_coverages(SIGNAL[test], ERROR[test], groups[test])
        )
        assert {row["n_samples"] for row in curve} == {N - 100}
