"""What is shown while a sweep runs: short names, one bar for all runs, the time left."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from eltbench.execution import progress
from eltbench.execution.progress import Live, apart

NAMES = [
    f"{trainer} masked relay (colours=12 gates=12) 2N×4L block=bert attention_radius=1 residual_scale=loops seed {seed}"
    for trainer in ("unique-depth", "universal-transformer")
    for seed in range(2)
]


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def shown(live: Live) -> str:
    """The bars as they stand, at 80 columns."""
    console = Console(width=80, file=io.StringIO(), force_terminal=False)
    console.print(live._progress.get_renderable())
    return console.file.getvalue()


@pytest.fixture
def live():
    made = Live(Console(width=80, file=io.StringIO(), force_terminal=True))
    yield made
    made.end()


def test_names_are_told_apart_by_the_words_that_differ():
    shared, short = apart(NAMES)
    assert shared == "masked relay (colours=12 gates=12) 2N×4L block=bert attention_radius=1 residual_scale=loops"
    assert list(short.values()) == [
        "unique-depth seed 0", "unique-depth seed 1", "universal-transformer seed 0", "universal-transformer seed 1",
    ]  # fmt: skip
    assert apart(["elt diffusion digits 2N×4L seed 0"]) == (
        "",
        {name: name for name in ["elt diffusion digits 2N×4L seed 0"]},
    )
    assert apart([]) == ("", {})


def test_the_time_left_is_the_recorded_one_less_what_is_done(live, clock):
    live.begin(NAMES, 0, seconds=400.0)
    assert "0 of 4, about 6 min 40 s left" in shown(live)
    live.phase("a", NAMES[0], "training, step 50 of 100", 0.5)
    assert "0 of 4, about 5 min 50 s left" in shown(live)
    live.phase("a", NAMES[0], "measuring for extrapolation", None)  # which takes nothing back
    assert "0 of 4, about 5 min 50 s left" in shown(live)
    live.finished("a", "")
    assert "1 of 4, about 5 min 00 s left" in shown(live)


def test_without_records_it_goes_on_as_fast_as_it_went(live, clock):
    live.begin(NAMES, 2)
    live.phase("a", NAMES[0], "training, step 1 of 100", 0.01)
    assert "left" not in shown(live)
    clock[0] = 30.0
    live.phase("a", NAMES[0], "training, step 40 of 100", 0.4)  # a tenth of all
    assert "0 of 4, about 4 min 30 s left" in shown(live)


def test_lines_fit_80_columns_and_name_the_run(live, clock):
    live.begin(NAMES, 0, seconds=400.0)
    for run_id, name in zip("abcd", NAMES, strict=True):
        live.phase(run_id, name, "training, step 1234 of 4000", 0.3)
    lines = shown(live).splitlines()
    assert len(lines) == 5
    assert max(map(len, lines)) <= 80
    assert [line.split("  ")[0].strip() for line in lines[1:]] == list(apart(NAMES)[1].values())


def test_a_line_at_once_where_all_is_cached(clock):
    console = Console(width=80, file=io.StringIO(), force_terminal=True)
    live = Live(console)
    live.begin([], 12)
    live.end()
    assert "runs to make: 0, cached: 12" in console.file.getvalue()
