"""Calibration errors against torchmetrics, cases worked by hand, and forecasts that are right by construction."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_calibration_error

from eltbench.evaluation.signals.calibration import brier, calibration, expected_calibration_error, isotonic


def forecasts(seed, n=4000):
    """Probabilities that are right, and the events."""
    rng = np.random.default_rng(seed)
    probability = rng.random(n)
    return probability, rng.random(n) < probability


@pytest.mark.parametrize("bins", [1, 4, 15])
@pytest.mark.parametrize("seed", range(3))
def test_the_calibration_error_is_that_of_torchmetrics(seed, bins):
    probability, event = forecasts(seed, 500)
    probability = (probability**2).astype(np.float32)
    expected = binary_calibration_error(torch.from_numpy(probability), torch.from_numpy(event).long(), n_bins=bins)
    assert expected_calibration_error(probability, event, bins) == pytest.approx(float(expected), abs=1e-6)


def test_the_calibration_error_of_a_case_worked_by_hand():
    probability, event = np.array([0.1, 0.3, 0.9, 1.0]), np.array([False, True, True, False])
    # Two bins: [0, .5) forecasts .2 and sees .5, [.5, 1] forecasts .95 and sees .5.
    assert expected_calibration_error(probability, event, 2) == pytest.approx(0.5 * 0.3 + 0.5 * 0.45)


def test_a_right_forecast_has_an_error_that_vanishes_with_the_items():
    small, large = (expected_calibration_error(*forecasts(0, n)) for n in (200, 200_000))
    assert large < 0.005 < small


def test_the_brier_score_of_a_constant_forecast_is_its_square_error():
    event = np.arange(10) < 3
    assert brier(np.full(10, 0.3), event) == pytest.approx(0.3 * 0.7)
    assert brier(event.astype(float), event) == 0
    assert brier(np.ones(4), np.zeros(4, bool)) == 1


def test_isotonic_regression_pools_neighbours_that_are_out_of_order():
    calibrate = isotonic(np.array([1.0, 2, 3, 4]), np.array([0, 1, 0, 1])).predict  # 1 before 0: both become their mean
    np.testing.assert_allclose(calibrate(np.array([1.0, 2, 3, 4])), [0, 0.5, 0.5, 1])
    np.testing.assert_allclose(calibrate(np.array([-9.0, 9.0])), [0, 1])


def test_isotonic_regression_repairs_a_forecast_that_is_too_sure():
    (probability, event), (other, other_event) = forecasts(1), forecasts(2)
    sure, other_sure = (p**3 / (p**3 + (1 - p) ** 3) for p in (probability, other))
    found = calibration(sure, event, other_sure, other_event)
    assert found["ece_before"] > 0.1
    assert found["ece_after"] < 0.03
    assert found["brier_after"] < found["brier_before"]
    assert found["brier_after"] == pytest.approx(brier(probability, event), abs=0.01)


def test_a_signal_that_is_no_probability_is_judged_after_calibration_only():
    (probability, event), (other, other_event) = forecasts(1), forecasts(2)
    found = calibration(10 * probability, event, 10 * other, other_event)
    assert np.isnan([found["ece_before"], found["brier_before"]]).all()
    assert found["ece_after"] < 0.03


def test_impossible_forecasts_are_refused():
    with pytest.raises(ValueError, match=r"lie in \[0, 1\], given 1.5 at item 1"):
        expected_calibration_error(np.array([0.5, 1.5]), np.array([True, False]))
    with pytest.raises(ValueError, match="given nan at item 0"):
        brier(np.array([np.nan]), np.array([True]))
    with pytest.raises(ValueError, match="one probability an event"):
        brier(np.zeros(3), np.zeros(4, bool))
