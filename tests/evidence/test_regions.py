"""How an interval lies to a region: the verdict and the interval cannot disagree."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eltbench.evidence.intervals import Interval
from eltbench.evidence.regions import Region

numbers = st.integers(-40, 40).map(lambda x: x / 8)  # coarse, so that bounds coincide often


@st.composite
def intervals(draw):
    low, high = sorted((draw(numbers), draw(numbers)))
    return Interval((low + high) / 2, low, high, 3, 0.95)


@st.composite
def regions(draw):
    low, high = sorted((draw(numbers), draw(numbers)))
    shape = draw(st.sampled_from(["below", "above", "between"]))
    if shape == "between":
        return Region(low, high + 0.125)
    return Region(high=high) if shape == "below" else Region(low=low)


@given(intervals(), regions())
def test_the_verdict_says_which_points_of_the_interval_lie_in_the_open_region(interval, region):
    points = np.linspace(interval.low, interval.high, 2001)  # finer than the grid of bounds, ends included
    inside = (points > region.low) & (points < region.high)
    expected = "supported" if inside.all() else "contradicted" if not inside.any() else "inconclusive"
    assert region.verdict(interval) == expected


@given(intervals(), regions())
def test_mirroring_effect_and_region_keeps_the_verdict(interval, region):
    mirrored = Interval(-interval.estimate, -interval.high, -interval.low, interval.n, interval.level)
    assert Region(-region.high, -region.low).verdict(mirrored) == region.verdict(interval)


@given(intervals(), regions(), st.floats(0, 3))
def test_a_wider_interval_never_gains_or_flips_a_verdict(interval, region, more):
    wider = Interval(interval.estimate, interval.low - more, interval.high + more, interval.n, interval.level)
    assert region.verdict(wider) in (region.verdict(interval), "inconclusive")


@given(regions())
def test_an_infinite_interval_is_inconclusive(region):
    assert region.verdict(Interval(0.0, -math.inf, math.inf, 1, 0.95)) == "inconclusive"


def test_an_effect_exactly_on_the_bound_is_outside_the_open_region():
    assert Region(high=0.0).verdict(Interval(0.0, 0.0, 0.0, 5, 0.95)) == "contradicted"


def test_a_margin_keeps_the_direction_of_every_bound():
    assert Region(high=math.log(1.02)).with_margin(0.3) == Region(high=0.3)
    assert Region(low=math.log(1.05)).with_margin(0.3) == Region(low=0.3)
    assert Region(high=math.log(0.995)).with_margin(0.3) == Region(high=-0.3)
    assert Region(-0.1, 0.2).with_margin(0.3) == Region(-0.3, 0.3)
    assert Region(low=0.0).with_margin(0.3) == Region(low=0.0)


@pytest.mark.parametrize("margin", [0.0, -1.0, math.inf, math.nan])
def test_a_margin_must_be_positive_and_finite(margin):
    with pytest.raises(ValueError, match="margin must be positive and finite"):
        Region(high=1.0).with_margin(margin)


@pytest.mark.parametrize("bounds", [(1.0, 1.0), (2.0, 1.0), (math.nan, 1.0), (-math.inf, math.inf)])
def test_a_region_that_decides_nothing_is_refused(bounds):
    with pytest.raises(ValueError, match="low must lie below high and one be finite"):
        Region(*bounds)


def test_regions_read_like_the_table_of_claims():
    assert Region(high=math.log(1.02)).describe("log-ratio") == "below +2.00 %"
    assert Region(low=0.02).describe("additive") == "above +0.02"
    assert Region(math.log(0.98), math.log(1.02)).describe("log-ratio") == "between -2.00 % and +2.00 %"
