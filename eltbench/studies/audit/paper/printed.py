"""A printed figure as the interval of values that would have been printed so."""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple


class Printed(NamedTuple):
    """A figure and the ends of its interval, half a unit of its last printed digit to both sides."""

    value: float
    low: float
    high: float

    def contains(self, value: float) -> bool:
        """Whether the value rounds to the figure; both ends do, since rounding rules differ there."""
        return self.low <= value <= self.high

    def over(self, other: Printed) -> Printed:
        """The quotient, with every value that the two intervals allow; both must be positive."""
        return Printed(self.value / other.value, self.low / other.high, self.high / other.low)


def read(text: str) -> Printed:
    """The figure of a table; zeros at the end of a whole number are taken for rounding: 1100 is 1050 to 1150.

    Raises ValueError for text that is no positive number.
    """
    try:
        number = Decimal(text)
    except ArithmeticError:
        raise ValueError(f"a printed figure must be a number, given {text!r}") from None
    if not number.is_finite() or number <= 0:
        raise ValueError(f"a printed figure must be positive, given {text!r}")
    whole = number == number.to_integral_value() and "." not in text
    half = Decimal(5).scaleb(int((number.normalize() if whole else number).as_tuple().exponent) - 1)
    return Printed(float(number), float(number - half), float(number + half))
