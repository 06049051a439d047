"""Spans of time as people write them."""

from __future__ import annotations

import math


def duration(seconds: float) -> str:
    """Seconds in words: 8.2 s, 3 min 05 s, 1 h 20 min, 12 d."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes < 48 * 60 else f"{minutes / 1440:.0f} d"


def seconds(option: str, text: str) -> float:
    """The seconds of a span such as 30d, 12h, 90m, 1h30m or 3600s; ValueError, naming the option, for another form."""
    import pandas as pd

    text = text.strip()
    try:  # a bare number would be nanoseconds
        found = 0.0 if text.isdigit() else pd.Timedelta(text.lower().replace("d", "D")).total_seconds()
    except ValueError:
        found = 0.0
    if not 0 < found < math.inf:
        raise ValueError(f"--{option}: give a span of time such as 30d, 12h, 90m, 1h30m or 3600s, given {text!r}")
    return found
