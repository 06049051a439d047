"""Random streams: counter-based, shared by every run of one seed, and apart from one another."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eltbench.core.streams import held_out, stream

keys = st.tuples(
    st.sampled_from(["digits", "relay"]),
    st.integers(0, 5),
    st.sampled_from(["batch", "corruption", "exits"]),
    st.integers(0, 5) | st.integers(0, 2**40),
)


def draws(key, count=1000):
    return stream(*key).bit_generator.random_raw(count)


@given(keys, keys)
@settings(deadline=None)
def test_streams_are_equal_for_equal_keys_and_share_nothing_otherwise(first, second):
    if first == second:
        assert np.array_equal(draws(first), draws(second))
    else:
        assert not np.intersect1d(draws(first), draws(second)).size


@pytest.mark.parametrize("step", [0, 1, 999])
def test_neighbouring_steps_do_not_overlap(step):
    """With the step in the lowest word of the counter the next step would repeat all but the first four draws."""
    this, following = draws(("digits", 0, "batch", step)), draws(("digits", 0, "batch", step + 1))
    assert not np.intersect1d(this, following).size


def test_neighbouring_steps_are_uncorrelated():
    this, following = (stream("digits", 0, "corruption", step).standard_normal(100_000) for step in (0, 1))
    assert abs(np.corrcoef(this, following)[0, 1]) < 4 / np.sqrt(100_000)


def test_the_streams_are_those_of_published_results():
    """Recorded once: a NumPy or a key that draws otherwise would make other runs under the same identities."""
    assert stream("digits", 0, "batch", 3).integers(2**32, size=4).tolist() == [
        2617263048,
        2609833550,
        832501307,
        2930226816,
    ]
    np.testing.assert_allclose(
        stream("relay", 7, "corruption").standard_normal(3),
        [-0.848442523689039, 0.8617864021716971, 1.4449559722881054],
        rtol=1e-12,
    )


def test_whether_an_item_is_held_out_does_not_depend_on_what_is_drawn_with_it():
    items = np.random.default_rng(0).integers(-1, 9, size=(4096, 4, 4))
    whole = held_out("sudoku", items)
    assert np.array_equal(whole, np.concatenate([held_out("sudoku", items[:7]), held_out("sudoku", items[7:])]))
    assert np.array_equal(whole[::-1], held_out("sudoku", items[::-1]))
    assert 0.1 < whole.mean() < 0.15  # one in eight
    assert not np.array_equal(whole, held_out("maze", items))
    assert held_out("maze", items[:0]).shape == (0,)
