from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from eltbench.data.base import DataSpec
from eltbench.tasks import schedules
from eltbench.tasks.diffusion import Diffusion

IMAGE = DataSpec("continuous", (8, 8), channels=1, classes=10)
inner_times = st.floats(0.001, 0.999)


def time_at(log_snr: float) -> float:
    """Solves λ(t) = -2 ln tan u, u = a + t(c - a), for t by hand."""
    start, end = math.atan(math.exp(-7.5)), math.atan(math.exp(7.5))
    return (math.atan(math.exp(-log_snr / 2)) - start) / (end - start)


@pytest.mark.parametrize(("log_snr", "published"), [(0.0, 6.28), (10.0, 466.0), (-10.0, 466.0)])
def test_minus_the_slope_of_log_snr_has_the_published_values(log_snr, published):
    time = np.array(time_at(log_snr))
    assert schedules.shifted_cosine_log_snr(time) == pytest.approx(log_snr, abs=1e-9)
    assert -schedules.shifted_cosine_slope(time) == pytest.approx(published, rel=5e-4)


@given(inner_times, st.floats(-5, 5))
def test_slope_is_the_derivative_of_log_snr_whatever_the_shift(time, shift):
    width = 1e-6
    around = schedules.shifted_cosine_log_snr(np.array([time - width, time + width]), shift)
    assert schedules.shifted_cosine_slope(np.array(time)) == pytest.approx((around[1] - around[0]) / (2 * width), 1e-4)


@given(st.floats(5, 20), st.floats(5, 20), st.floats(-5, 5))
def test_log_snr_falls_from_its_clipped_maximum_to_its_minimum_and_the_shift_is_added_after(high, low, shift):
    log_snr = schedules.shifted_cosine_log_snr(np.linspace(0, 1, 50), shift, high, -low)
    assert log_snr[[0, -1]] == pytest.approx([high + shift, -low + shift], abs=1e-6)
    assert (np.diff(log_snr) < 0).all()


def test_a_reference_resolution_shifts_log_snr_by_twice_the_log_ratio_and_the_default_is_no_shift():
    time = np.linspace(0, 1, 9)
    unshifted = Diffusion().log_snr(time, IMAGE)
    assert unshifted[4] == pytest.approx(0, abs=1e-12)
    assert Diffusion(reference_resolution=64).log_snr(time, IMAGE) - unshifted == pytest.approx(2 * math.log(8))
    assert Diffusion(reference_resolution=8).log_snr(time, IMAGE) == pytest.approx(unshifted)


@given(st.floats(-40, 40), st.floats(-3, 3))
def test_weight_on_an_x0_error_is_the_sigmoid_weight_on_an_epsilon_error_times_the_snr(log_snr, bias):
    weight = schedules.sigmoid_weight(np.array(log_snr), bias)
    assert weight == pytest.approx(special.expit(bias - log_snr) * math.exp(log_snr), rel=1e-9, abs=0)


@given(st.floats(-700, 700))
def test_sigmoid_keeps_its_relative_precision_far_from_zero(value):
    expected = 1 / (1 + math.exp(-value)) if value > 0 else math.exp(value) / (1 + math.exp(value))
    assert schedules.sigmoid(value) == pytest.approx(expected, rel=1e-12, abs=0)


def test_masking_rate_is_a_cosine_of_the_level():
    level, positions = np.linspace(0, 1, 1001)[:-1], 10**6
    rate = schedules.masked_count(level, positions) / positions
    assert rate == pytest.approx(np.cos(np.pi * level / 2), abs=1e-6)
    assert rate.mean() == pytest.approx(2 / math.pi, abs=1e-3)  # ∫cos(πr/2)dr


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 300), st.floats(0, 1))
def test_at_least_one_position_is_masked_and_at_least_the_minimum_rate(level, positions, minimum):
    count = schedules.masked_count(np.array([level]), positions, minimum)[0]
    assert max(1, minimum * positions) <= count + 1e-9
    assert count <= positions


def revealed(positions: int, steps: int) -> list[int]:
    unknown, counts = positions, []
    for step in range(steps):
        left = schedules.still_masked(unknown, positions, step, steps)
        counts.append(unknown - left)
        unknown = left
    return counts


@pytest.mark.parametrize(
    ("positions", "published"), [(64, [2, 3, 6, 8, 10, 11, 12, 12]), (256, [5, 15, 24, 31, 39, 45, 48, 49])]
)
def test_tokens_revealed_per_step_are_those_of_maskgit(positions, published):
    assert revealed(positions, 8) == published


@given(st.integers(0, 300), st.integers(1, 40))
def test_decoding_reveals_everything_by_its_last_step_and_masks_no_known_token(positions, steps):
    counts = revealed(positions, steps)
    assert sum(counts) == positions
    assert min(counts) >= 0
    before = positions - np.cumsum([0, *counts[:-1]])
    assert all(count >= 1 for count, unknown in zip(counts, before, strict=True) if unknown > 1)


def test_spread_levels_give_every_item_one_level_in_each_stratum():
    items, draws = 500, 8
    levels = schedules.spread_levels(items, draws, np.random.default_rng(0))
    assert levels.shape == (draws, items)
    assert (np.floor(levels * draws) == np.arange(draws)[:, None]).all()
    assert len(np.unique(levels)) == items * draws
