"""Fixed tables: positions, frequencies and the neighbourhood of a token."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from eltbench.backends import positions

grids = st.tuples(st.integers(1, 4), st.integers(1, 6))


@settings(max_examples=30, deadline=None)
@given(grids, st.integers(0, 3), st.integers(0, 1))
def test_visible_is_the_chebyshev_neighbourhood_and_the_prefix(grid, radius, prefix):
    mask = positions.visible(grid, radius, prefix)
    tokens = grid[0] * grid[1]
    assert mask.shape == (prefix + tokens, prefix + tokens)
    for query in range(tokens):
        for key in range(tokens):
            (row, column), (other_row, other_column) = divmod(query, grid[1]), divmod(key, grid[1])
            near = abs(row - other_row) <= radius and abs(column - other_column) <= radius
            assert mask[prefix + query, prefix + key] == near
    if prefix:
        assert mask[:, 0].all()
        assert not mask[0, 1:].any()


@settings(max_examples=30, deadline=None)
@given(grids, st.sampled_from([4, 8, 64]))
def test_products_of_positions_depend_on_the_offset_alone(grid, width):
    """sin a sin b + cos a cos b = cos(a - b), summed over the frequencies of rows and of columns."""
    places = positions.grid_positions(grid, width)
    frequencies = 10000.0 ** (-np.arange(width // 4) / (width // 4))
    rows, columns = np.indices(grid).reshape(2, -1)
    offsets = [np.subtract.outer(axis, axis)[..., None] * frequencies for axis in (rows, columns)]
    expected = sum(np.cos(offset).sum(-1) for offset in offsets)
    np.testing.assert_allclose(places.astype(np.float64) @ places.T, expected, atol=1e-5)


def test_every_log_snr_of_the_schedule_has_its_own_embedding():
    log_snr = np.linspace(-15, 15, 3001)
    slowest = positions.log_snr_frequencies(64).min()
    assert (np.diff(np.sin(slowest * log_snr)) > 0).all()
    assert positions.log_snr_frequencies(64).shape == (32,)


def test_index_frequencies_are_those_of_the_transformer():
    """10000^(-2i / d) (arXiv 1706.03762, section 3.5)."""
    np.testing.assert_allclose(positions.index_frequencies(8), [1, 0.1, 0.01, 0.001], rtol=1e-6)
