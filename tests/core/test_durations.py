"""Spans of time, as people write them."""

from __future__ import annotations

import pytest

from eltbench.core.durations import duration, seconds


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("2h", 7200),
        ("90m", 5400),
        ("45min", 2700),
        ("1h30m", 5400),
        ("3600s", 3600),
        ("1.5h", 5400),
        ("1H 30min", 5400),
        ("2 days", 172800),
    ],
)
def test_a_time_is_written_as_people_write_it(text, found):
    assert seconds("budget", text) == found


@pytest.mark.parametrize("text", ["", "2", "h", "0h", "-1h", "2 parsecs", "nan", "1h30", "inf h"])
def test_what_is_no_time_is_refused_with_examples(text):
    with pytest.raises(ValueError, match="--budget: give a span of time such as 30d, 12h"):
        seconds("budget", text)


@pytest.mark.parametrize(
    ("given", "said"),
    [(8.23, "8.2 s"), (59.96, "1 min 00 s"), (185, "3 min 05 s"), (4800, "1 h 20 min"), (1e6, "12 d")],
)
def test_a_span_is_told_in_two_units(given, said):
    assert duration(given) == said
