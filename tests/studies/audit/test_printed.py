"""A printed figure stands for every value that rounds to it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eltbench.studies.audit.paper import printed


@given(st.floats(0.1, 5000), st.integers(1, 3))
def test_a_value_lies_in_the_interval_of_its_own_printing(value, digits):
    figure = printed.read(f"{value:.{digits}f}")
    assert figure.contains(value)
    assert figure.high - figure.low == pytest.approx(10.0**-digits)


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("303", 302.5, 303.5),
        ("1100", 1050, 1150),  # zeros at the end of a whole number are rounding
        ("3.7", 3.65, 3.75),
        ("2.0", 1.95, 2.05),  # but those behind a point were printed on purpose
        ("69.20", 69.195, 69.205),
        ("13", 12.5, 13.5),
    ],
)
def test_the_interval_is_half_a_unit_of_the_last_printed_digit_to_both_sides(text, low, high):
    assert printed.read(text) == (float(text), pytest.approx(low), pytest.approx(high))


@given(st.floats(1, 100), st.floats(1, 100))
def test_a_quotient_holds_every_quotient_of_what_was_rounded(numerator, denominator):
    quotient = printed.read(f"{numerator:.1f}").over(printed.read(f"{denominator:.1f}"))
    assert quotient.low <= numerator / denominator <= quotient.high


@pytest.mark.parametrize("text", ["", "many", "nan", "inf", "0", "-3.1"])
def test_what_is_no_positive_number_is_refused(text):
    with pytest.raises(ValueError, match="a printed figure must be"):
        printed.read(text)
