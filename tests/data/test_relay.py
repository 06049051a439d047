"""Relay: colours follow the gates, and without the first colour nobody can know them."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, chisquare

from eltbench import data
from eltbench.data.relay import Relay, reachable


def solve(world: Relay, clean) -> np.ndarray:
    """Every colour (B, T), found from the revealed ones by following the gates cell by cell in plain Python."""
    solved = np.full(clean.values.shape, -1)
    for item in range(len(solved)):
        for strip in range(world.strips):
            for cell in range(strip * world.length, (strip + 1) * world.length):
                if not clean.hidden[item, cell]:
                    colour = clean.values[item, cell]
                else:
                    colour = world.permutations[clean.context[item, cell]][colour]
                solved[item, cell] = colour
    return solved


WORLDS = [Relay(), Relay(length=5, strips=3, colours=3), Relay(colours=5, gates=7), Relay(length=6, strips=2, gates=1)]


@pytest.mark.parametrize("world", WORLDS, ids=str)
def test_following_the_gates_from_the_revealed_cells_gives_every_colour(world):
    clean = world.batch(np.random.default_rng(0), 20)
    assert np.array_equal(solve(world, clean), clean.values)


def test_cyclic_gates_add_up():
    clean = Relay(length=9, colours=5).batch(np.random.default_rng(0), 50)
    steps = clean.context.copy()
    steps[:, 0] = clean.values[:, 0]
    assert np.array_equal(clean.values, steps.cumsum(1) % 5)


@pytest.mark.parametrize("world", WORLDS, ids=str)
def test_items_have_the_form_that_the_spec_declares(world):
    spec, clean = world.spec, world.batch(np.random.default_rng(0), 64)
    assert (spec.kind, spec.grid, spec.classes) == ("tokens", (world.strips, world.length), 0)
    assert (clean.values.shape, clean.values.dtype) == ((64, spec.tokens), np.int32)
    assert (clean.context.shape, clean.context.dtype) == ((64, spec.tokens), np.int32)
    assert set(np.unique(clean.values)) == set(range(spec.vocabulary))
    assert set(np.unique(clean.context)) == set(range(spec.context_vocabulary))
    assert clean.labels.tolist() == [0] * 64


def test_only_the_first_cell_of_each_strip_is_revealed():
    clean = Relay(length=4, strips=2).batch(np.random.default_rng(0), 3)
    assert clean.hidden.tolist() == [[False, True, True, True] * 2] * 3


@pytest.mark.parametrize("gates", ["cyclic", 2, 6])
def test_without_the_first_colour_a_cell_is_uniform_given_every_gate(gates):
    """Holds for any gates that permute, hence the theorem for both kinds."""
    world = Relay(length=4, colours=3, gates=gates)
    clean = world.batch(np.random.default_rng(0), 20_000)
    table = np.zeros((world.spec.context_vocabulary ** (world.length - 1), world.colours))
    words = np.ravel_multi_index(clean.context[:, 1:].T, [world.spec.context_vocabulary] * (world.length - 1))
    np.add.at(table, (words, clean.values[:, -1]), 1)
    assert chi2_contingency(table).pvalue > 1e-3
    assert chisquare(table.sum(0)).pvalue > 1e-3


@pytest.mark.parametrize("unseen", [1, 5, 8])
def test_one_unseen_cyclic_gate_leaves_a_cell_uniform_though_the_first_colour_is_seen(unseen):
    clean = Relay(length=9).batch(np.random.default_rng(unseen), 20_000)
    others = np.delete(np.arange(1, 9), unseen - 1)
    known = (clean.values[:, 0] + clean.context[:, others].sum(1)) % 4  # all that the others say about the last cell
    table = np.zeros((4, 4))
    np.add.at(table, (known, clean.values[:, -1]), 1)
    assert chi2_contingency(table).pvalue > 1e-3
    assert chisquare(table.sum(0)).pvalue > 1e-3


def test_one_unseen_gate_of_a_small_random_set_leaves_a_guess_better_than_chance():
    """The limit that the module states: two permutations of four colours lead to at most two of them."""
    clean = Relay(length=2, gates=2).batch(np.random.default_rng(0), 5_000)
    counts = Counter(zip(clean.values[:, 0].tolist(), clean.values[:, 1].tolist(), strict=True))
    best = sum(max(counts[first, last] for last in range(4)) for first in range(4)) / 5_000
    assert len(counts) <= 8
    assert best > 0.45  # chance is 0.25


@given(colours=st.integers(2, 6), wanted=st.integers(1, 100))
@settings(max_examples=30, deadline=None)
def test_random_gates_are_distinct_permutations_and_always_the_same(colours, wanted):
    limit = [0, 0, 2, 6, 24, 120, 720][colours]
    permutations = Relay(colours=colours, gates=min(wanted, limit)).permutations
    assert len({tuple(row) for row in permutations.tolist()}) == min(wanted, limit)
    assert (np.sort(permutations, axis=1) == np.arange(colours)).all()
    assert np.array_equal(permutations, Relay(colours=colours, gates=min(wanted, limit)).permutations)


def test_a_larger_gate_set_contains_the_smaller_one():
    small, large = Relay(colours=5, gates=4).permutations, Relay(colours=5, gates=9).permutations
    assert np.array_equal(large[:4], small)


def test_the_heldout_items_are_fixed_and_not_the_training_sample():
    world = data.create("relay", heldout_items=100)
    assert np.array_equal(world.heldout().values, world.heldout().values)
    assert (len(world.heldout().labels), len(world.training().labels)) == (100, 1024)
    assert not np.array_equal(world.heldout().context, world.training().context[:100])
    assert len(data.create("relay").heldout().labels) == 512


def test_strata_are_the_distance_from_the_revealed_cell():
    world = Relay(length=5, strips=2)
    assert world.strata(world.heldout())[7].tolist() == [0, 1, 2, 3, 4] * 2


def test_strata_are_the_distance_from_the_nearest_of_several_revealed_cells():
    world = Relay(length=6)
    clean = world.batch(np.random.default_rng(0), 2)
    clean.hidden[0] = [True, False, True, True, True, False]
    assert world.strata(clean).tolist() == [[1, 0, 1, 2, 1, 0], [0, 1, 2, 3, 4, 5]]


def test_strata_refuse_items_in_which_a_strip_reveals_nothing():
    world = Relay(length=3, strips=2)
    clean = world.batch(np.random.default_rng(0), 2)
    clean.hidden[1, 3:] = True
    with pytest.raises(ValueError, match="every strip must reveal a colour"):
        world.strata(clean)
    with pytest.raises(ValueError, match="need items that carry `hidden`"):
        world.strata(clean._replace(hidden=None))


@given(layers=st.integers(1, 4), loops=st.integers(1, 6), radius=st.integers(0, 3))
@settings(deadline=None)
def test_reachable_is_where_the_light_cone_of_attention_has_come(layers, loops, radius):
    seen = np.arange(80) == 0  # who knows the first colour
    for _ in range(layers * loops):
        seen = np.array([seen[max(0, cell - radius) : cell + radius + 1].any() for cell in range(80)])
    assert [reachable(distance, layers * loops, radius) for distance in range(80)] == seen.tolist()


def test_attention_without_a_limit_reaches_everything():
    assert reachable(1000, 1, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 1}, "length must be an integer of at least 2, given 1"),
        ({"strips": 0}, "strips must be an integer of at least 1, given 0"),
        ({"colours": 1}, "colours must be an integer of at least 2, given 1"),
        ({"heldout_items": 2.5}, "heldout_items is given as 2.5"),
        ({"gates": "cylic"}, r"'cyclic' or a number of permutations in 1\.\.24 \(4 colours\), given 'cylic'"),
        ({"gates": 0}, "given 0"),
        ({"gates": 7, "colours": 3}, r"in 1\.\.6 \(3 colours\), given 7"),
    ],
)
def test_impossible_worlds_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        data.create("relay", **options)
