"""Stopping rules against cases worked by hand and a plain loop that stops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eltbench.evaluation.signals.exit_trace import Trace
from eltbench.evaluation.signals.uncertainty import measure
from eltbench.evaluation.stopping import rules as stopping
from eltbench.evaluation.stopping.rules import RULES, Rule, curve, fired, stops, thresholds
from eltbench.tasks.base import ExitOutput


def run_until_stopped(values, threshold, hits):
    """One item, one loop after the other."""
    in_a_row = 0
    for exit, value in enumerate(values):
        in_a_row = in_a_row + 1 if value <= threshold else 0
        if in_a_row >= hits:
            return exit
    return len(values) - 1


def test_an_item_stops_at_its_first_exit_at_or_below_the_threshold():
    values = np.array([[0.9, 0.1, np.nan, 0.5], [0.4, 0.3, 0.2, 0.6], [0.1, 0.9, 0.2, 0.7]])
    assert stops(values, 0.4).tolist() == [1, 0, 1, 2]
    assert stops(values, 0.4, hits=2).tolist() == [2, 1, 2, 2]
    assert stops(values, -np.inf).tolist() == [2, 2, 2, 2]
    assert stops(values, np.inf).tolist() == [0, 0, 1, 0]  # a signal that is not defined stops nothing


@given(seed=st.integers(0, 500), hits=st.integers(1, 4), threshold=st.floats(-1, 1))
@settings(max_examples=40)
def test_stopping_all_at_once_equals_stopping_one_by_one(seed, hits, threshold):
    values = np.random.default_rng(seed).standard_normal((5, 20))
    values[0, ::3] = np.nan
    expected = [run_until_stopped(column, threshold, hits) for column in values.T]
    assert stops(values, threshold, hits).tolist() == expected


@given(seed=st.integers(0, 500), hits=st.integers(1, 3))
@settings(max_examples=20)
def test_the_last_row_of_the_values_so_far_says_who_stops_now(seed, hits):
    values = np.random.default_rng(seed).standard_normal((6, 10))
    whole = fired(values, 0.2, hits)
    for exit in range(6):
        assert np.array_equal(fired(values[: exit + 1], 0.2, hits)[-1], whole[exit])


def test_bolder_thresholds_never_stop_later():
    values = np.random.default_rng(0).standard_normal((6, 200))
    for hits in (1, 2):
        depth = np.array([stops(values, threshold, hits) for threshold in thresholds(values, 30)])
        assert (np.diff(depth, axis=0) <= 0).all()
        assert (depth[0] == 5).all()
        assert depth[-1].max() == hits - 1


def test_a_grid_begins_with_never_and_holds_values_that_were_seen():
    values = np.array([[np.nan, np.nan], [1.0, 2.0], [3.0, 4.0], [-9.0, 9.0]])
    assert thresholds(values).tolist() == [-np.inf, 1, 2, 3, 4]
    assert len(thresholds(np.random.default_rng(0).random((4, 500)), 10)) == 10
    with pytest.raises(ValueError, match="cannot stop anything"):
        thresholds(np.full((3, 4), np.nan))


def test_the_rules_of_the_sources_are_all_there():
    assert set(RULES) == {
        "fixed",
        "entropy",
        "entropy-difference",
        "kl",
        "min-p-kl",
        "prediction-change",
        "latent-difference",
        "cosine",
        "acceleration",
        "argmax-stability",
        "halting",
        "judged-right",
        "learned-gate",
        "oracle",
    }
    assert RULES["acceleration"].hits == 2


def test_fixed_depth_stops_after_that_many_loops():
    loops = (1, 2, 4, 8)
    values = stopping.minus_loops(loops, 3)
    assert stops(values, -4).tolist() == [2, 2, 2]
    assert stops(values, -3).tolist() == [2, 2, 2]  # the first exit with as many loops
    assert stops(values, -100).tolist() == [3, 3, 3]


def test_the_oracle_stops_at_the_first_exit_that_is_as_good_as_the_deepest():
    errors = np.array([[3.0, 1.0, 2.0], [2.0, 1.5, 2.1], [1.0, 1.2, 3.0]])
    values = stopping.excess_error(errors)
    assert stops(values, RULES["oracle"].threshold).tolist() == [2, 0, 0]
    assert stops(values, 1.0).tolist() == [1, 0, 0]


def test_argmax_stability_stops_after_as_many_exits_without_a_change():
    choices = np.array([[0, 1, 2], [1, 1, 2], [1, 1, 2], [1, 0, 2], [1, 0, 2], [1, 0, 2]])  # (exits, items)
    trace = Trace("tokens", hidden=np.ones((3, 1), bool))
    for exit, choice in enumerate(choices):
        trace.append(exit + 1, ExitOutput(np.eye(3)[choice][:, None]))
    values = measure(trace, ["argmax_unsettled"])["argmax_unsettled"]
    rule = RULES["argmax-stability"]
    assert stops(values, -2).tolist() == [3, 2, 2]
    assert stops(values, -3).tolist() == [4, 5, 3]
    assert stops(values, rule.threshold).tolist() == [5, 5, 5]


def test_quality_and_compute_of_a_case_worked_by_hand():
    values = np.array([[0.1, 0.9, 0.9, 0.1, 0.9], [0.0, 0.1, 0.9, 0.0, 0.9], [0.0, 0.0, 0.0, 0.0, 0.0]])
    errors = np.array([[5.0, 5, 5, 5, 5], [3, 3, 3, 3, 3], [2, 2, 2, 2, 2]])
    never, some = curve(values, errors, (1, 2, 4), [-np.inf, 0.5], batch_size=2)
    assert never == {
        "threshold": -np.inf,
        "error": 2.0,
        "excess_error": 0.0,
        "loops_per_sample": 4.0,
        "loops_per_batch": 4.0,
    }
    # Stops after 1, 2, 4, 1 and 4 loops; batches of two run 2, 4 and, of the last one alone, 4.
    assert some["loops_per_sample"] == pytest.approx(12 / 5)
    assert some["loops_per_batch"] == pytest.approx((2 + 2 + 4 + 4 + 4) / 5)
    assert some["error"] == pytest.approx((5 + 3 + 2 + 5 + 2) / 5)
    assert some["excess_error"] == pytest.approx(17 / 5 - 2)


def test_a_batch_of_one_runs_what_its_sample_runs_and_a_large_one_its_longest():
    rng = np.random.default_rng(0)
    values, errors = rng.random((5, 64)), rng.random((5, 64))
    grid = thresholds(values, 8)
    alone, together = (curve(values, errors, range(1, 6), grid, batch_size=size) for size in (1, 64))
    for one, all_, threshold in zip(alone, together, grid, strict=True):
        assert one["loops_per_batch"] == one["loops_per_sample"] == all_["loops_per_sample"]
        assert all_["loops_per_batch"] == 1 + stops(values, threshold).max()


def test_the_oracle_is_at_least_as_good_as_the_deepest_exit_with_no_more_loops():
    rng = np.random.default_rng(1)
    errors = rng.random((5, 300))
    (row,) = curve(stopping.excess_error(errors), errors, range(1, 6), [0.0])
    assert row["excess_error"] < 0
    assert row["loops_per_sample"] < 5


def test_rules_that_cannot_stop_are_refused():
    with pytest.raises(ValueError, match="'kl_to_deepest' reads more than the exits so far"):
        Rule("kl_to_deepest")
    with pytest.raises(ValueError, match="'ensemble_entropy' reads more than the exits so far"):
        Rule("ensemble_entropy")
    with pytest.raises(ValueError, match="unknown signal of a rule 'entrpy'; did you mean 'entropy'"):
        Rule("entrpy")
    with pytest.raises(ValueError, match="hits must be at least 1, given 0"):
        Rule("entropy", hits=0)
    with pytest.raises(ValueError, match="unknown stopping rule 'enthropy'; did you mean 'entropy'"):
        stopping.get("enthropy")


def test_a_network_without_exits_is_refused():
    with pytest.raises(ValueError, match=r"takes two exits or more, given 1 \(a trainer without loops\?\)"):
        stops(np.zeros((1, 4)), 0.0)


def test_a_curve_refuses_arrays_that_do_not_belong_together():
    with pytest.raises(ValueError, match=r"values \(3, 4\) and errors \(3, 5\) must be \(exits, items\)"):
        curve(np.zeros((3, 4)), np.zeros((3, 5)), (1, 2, 3), [0.0])
    with pytest.raises(ValueError, match=r"must be \(exits, items\) at \(1, 2\)"):
        curve(np.zeros((3, 4)), np.zeros((3, 4)), (1, 2), [0.0])


def test_batches_run_on_until_their_last_item_stops():
    loops = np.array([[1, 2, 1, 3, 1], [1, 1, 1, 1, 1]])
    assert stopping.batched(loops, 2).tolist() == [[2, 2, 3, 3, 1], [1, 1, 1, 1, 1]]
