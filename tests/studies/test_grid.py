"""The grid of a preset: which N×L it means, whom it sizes, and what it refuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eltbench.core.validation import build
from eltbench.studies.grid import Grid
from eltbench.studies.presets import Arm, Preset

# Pairs


@given(st.integers(2, 64))
def test_a_depth_means_every_way_to_reach_it_with_more_than_one_loop(depth):
    pairs = Grid(depth=depth, cap=depth).pairs
    assert set(pairs) == {(n, depth // n) for n in range(1, depth) if depth % n == 0}
    assert list(pairs) == sorted(pairs)


def test_the_depth_of_the_claims_is_made_in_three_ways():
    assert Grid(depth=8).pairs == ((1, 8), (2, 4), (4, 2))


SIZES = st.lists(st.integers(1, 16), min_size=1, max_size=4)


@given(SIZES, SIZES.map(lambda loops: [each + 1 for each in loops]), st.integers(2, 40))
def test_a_rectangle_means_every_pair_within_the_cap_or_is_refused(layers, loops, cap):
    wanted = {(n, each) for n in layers for each in loops if n * each <= cap}
    lonely = {n for n, _ in wanted} != set(layers) or {each for _, each in wanted} != set(loops)
    if lonely:
        with pytest.raises(ValueError, match=f"is part of no N×L with N·L ≤ {cap}"):
            Grid(unique_layers=tuple(layers), max_loops=tuple(loops), cap=cap)
    else:
        assert set(Grid(unique_layers=tuple(layers), max_loops=tuple(loops), cap=cap).pairs) == wanted


def test_the_lists_narrow_a_depth_and_twins_count_once():
    assert Grid(depth=8, unique_layers=(4, 1, 4)).pairs == ((1, 8), (4, 2))
    assert Grid(depth=8, max_loops=(4,)).pairs == ((2, 4),)


# Whom it sizes


def sizes(arm, **grid):
    preset = Preset("made-up", arms=(arm,), grid=build(Grid, grid))
    return [dict(sized.architecture) for sized in preset.sized_arms()]


def test_an_arm_has_every_size_that_it_leaves_open():
    pairs = [{"unique_layers": n, "max_loops": 8 // n} for n in (1, 2, 4)]
    assert sizes(Arm("elt"), depth=8) == pairs
    assert sizes(Arm("elt", architecture={"norm": "sandwich"}), depth=8) == [{"norm": "sandwich", **p} for p in pairs]
    assert sizes(Arm("no-ilsd", architecture={"max_loops": 1}), depth=8) == [{"max_loops": 1}]
    assert sizes(Arm("no-ilsd", architecture={"unique_layers": 3}), depth=8) == [{"unique_layers": 3}]


def test_widths_multiply_sizes_unless_an_arm_has_its_own():
    both = sizes(Arm("elt"), depth=4, widths=[32, 64])
    assert both == [{"width": width, "unique_layers": n, "max_loops": 4 // n} for width in (32, 64) for n in (1, 2)]
    fixed = {"unique_layers": 4, "max_loops": 1}
    assert sizes(Arm("unique-depth", architecture=fixed), depth=4, widths=[32, 64]) == [
        {**fixed, "width": 32},
        {**fixed, "width": 64},
    ]
    assert sizes(Arm("elt", architecture={"width": 8, "max_loops": 2}), depth=4, widths=[32, 64]) == [
        {"width": 8, "max_loops": 2}
    ]


def test_without_a_grid_every_arm_stays_as_it_is():
    assert sizes(Arm("elt", architecture={"width": 8})) == [{"width": 8}]


# Refusals


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"depth": 1}, "depth 1 is without an N×L of more than one loop; the nearest depth that would work is 2$"),
        ({"depth": 24}, "depth 24 is above cap = 16; the nearest depth that would work is 16, or raise cap to 24$"),
        ({"depth": -8}, "the nearest depth that would work is 2"),
        (
            {"depth": 8, "unique_layers": [3]},
            "unique_layers 3 is part of no N×L with N·L = 8; the nearest that is: 2 or 4",
        ),
        ({"depth": 8, "unique_layers": [8]}, "unique_layers 8 is part of no N×L with N·L = 8; the nearest that is: 4"),
        ({"depth": 8, "max_loops": [16]}, "max_loops 16 is part of no N×L with N·L = 8; the nearest that is: 8"),
        ({"depth": 8, "unique_layers": [2], "max_loops": [2]}, "unique_layers 2 is part of .*; the nearest that is: 4"),
        ({"unique_layers": [12], "max_loops": [2, 4]}, "unique_layers 12 is part of .* ≤ 16; the nearest that is: 8"),
        ({"unique_layers": [1], "max_loops": [32]}, "unique_layers 1 is part of no N×L with N·L ≤ 16; raise cap to 32"),
        ({"unique_layers": [1, 2]}, "give depth, or unique_layers and max_loops, given unique_layers alone"),
        ({"max_loops": [2]}, "given max_loops alone"),
        ({"unique_layers": [2], "max_loops": [1]}, "max_loops must be at least 2, given 1; list a model of one loop"),
        ({"unique_layers": [0], "max_loops": [2]}, "unique_layers must be at least 1, given 0"),
        ({"widths": [64, 0]}, "widths must be at least 1, given 0"),
        ({"depth": 8, "cap": 10**9}, "cap must be at most 1024, given 1000000000"),
        ({"depth": 8, "cap": 0}, "cap must be at least 2, the depth of one layer looped twice, given 0"),
        ({"dept": 8}, "unknown grid field 'dept'; did you mean 'depth'?"),
        ({"depth": "8"}, "grid: depth is given as '8'"),
        ({"widths": 64}, "grid: widths is given as 64"),
    ],
)
def test_a_grid_that_means_nothing_is_refused_with_the_nearest_that_would(grid, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        build(Grid, grid)


@given(st.integers(2, 16), st.integers(1, 20), st.sampled_from(["unique_layers", "max_loops"]))
def test_the_nearest_that_a_refusal_names_is_accepted_and_none_is_nearer(depth, value, name):
    try:
        Grid(depth=depth, **{name: (value,)})
    except ValueError as refusal:
        if "must be at least" in str(refusal):
            return
        named = [int(text) for text in str(refusal).partition("that is: ")[2].split(" or ")]
        works = [other for other in range(1, 17) if depth % other == 0 and (name == "max_loops" or other < depth)]
        works = [other for other in works if name == "unique_layers" or other > 1]
        assert set(named) <= set(works)
        assert min(abs(other - value) for other in named) == min(abs(other - value) for other in works)
