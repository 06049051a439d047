"""Regions of an effect, and how an interval lies to one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from eltbench.evidence.intervals import Interval, percent

Verdict = Literal["supported", "contradicted", "inconclusive"]
Scale = Literal["log-ratio", "additive"]


@dataclass(frozen=True)
class Region:
    """The open interval (low, high) in which an effect supports a claim; one bound may be infinite.

    Raises ValueError for bounds out of order, NaN, or both infinite.
    """

    low: float = -math.inf
    high: float = math.inf

    def __post_init__(self) -> None:
        if not self.low < self.high or (math.isinf(self.low) and math.isinf(self.high)):
            raise ValueError(f"region: low must lie below high and one be finite, given ({self.low}, {self.high})")

    @classmethod
    def of_ratio(cls, above: float = 0.0, below: float = math.inf) -> Region:
        """The region of a log-ratio, its bounds given as ratios: `of_ratio(below=1.02)` is "below +2 %"."""
        return cls(math.log(above) if above else -math.inf, math.log(below))

    def verdict(self, interval: Interval) -> Verdict:
        """Supported inside the region, contradicted where disjoint from it, inconclusive otherwise."""
        if interval.high <= self.low or interval.low >= self.high:
            return "contradicted"
        above = self.low == -math.inf or interval.low > self.low
        below = self.high == math.inf or interval.high < self.high
        return "supported" if above and below else "inconclusive"

    def with_margin(self, margin: float) -> Region:
        """The same direction on another scale: every finite bound keeps its sign and takes the size `margin`.

        "less than 2 % worse" becomes "worse by less than the margin", "more than 5 % worse" becomes "worse by more
        than the margin", and a bound of zero stays zero. Raises ValueError unless the margin is positive and finite.
        """
        if not 0 < margin < math.inf:
            raise ValueError(f"margin must be positive and finite, given {margin}")
        low, high = (b if b == 0 or math.isinf(b) else math.copysign(margin, b) for b in (self.low, self.high))
        return Region(low, high)

    def describe(self, scale: Scale) -> str:
        """The region for people: "below +2.00 %", "above +0.02", "between -2.00 % and +2.00 %"."""
        low, high = quantity(self.low, scale), quantity(self.high, scale)
        if self.low == -math.inf:
            return f"below {high}"
        return f"above {low}" if self.high == math.inf else f"between {low} and {high}"


def quantity(value: float, scale: Scale) -> str:
    """An effect for people: a log-ratio as its change in percent, an additive effect in its own unit."""
    return f"{percent(value):+.2f} %" if scale == "log-ratio" else f"{value:+.4g}"
