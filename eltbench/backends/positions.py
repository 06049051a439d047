"""Fixed tables of a network, in NumPy, so that two backends hold the same numbers: positions, frequencies, masks,
and the first states of a recursion.
"""

from __future__ import annotations

import numpy as np

from eltbench.core.streams import stream

LONGEST_PERIOD = 64.0  # of log-SNR, in nats: over [-15, 15] its sine is one-to-one
SHORTEST_PERIOD = 1.0


def index_frequencies(width: int) -> np.ndarray:
    """Frequencies (width / 2,) of the sinusoidal embedding of an index, 10000^(-2i / width) (arXiv 1706.03762)."""
    half = width // 2
    return (10000.0 ** (-np.arange(half) / half)).astype(np.float32)


def log_snr_frequencies(width: int) -> np.ndarray:
    """Frequencies (width / 2,) of the sinusoidal embedding of a log-SNR, geometric between the two periods."""
    periods = np.geomspace(LONGEST_PERIOD, SHORTEST_PERIOD, width // 2)
    return (2 * np.pi / periods).astype(np.float32)


def grid_positions(grid: tuple[int, int], width: int) -> np.ndarray:
    """2-D sin-cos positions (rows·columns, width): the first half for the row, the second for the column."""
    frequencies = index_frequencies(width // 2).astype(np.float64)
    rows, columns = (axis.reshape(-1, 1) * frequencies for axis in np.indices(grid))  # (T, width / 4)
    parts = [np.sin(rows), np.cos(rows), np.sin(columns), np.cos(columns)]
    return np.concatenate(parts, axis=1).astype(np.float32)


def visible(grid: tuple[int, int], radius: int, prefix: int = 0) -> np.ndarray:
    """Who sees whom (query, key): tokens of the grid at Chebyshev distance <= radius, and all see the `prefix` tokens.

    A prefix token sees only the prefix, so that it carries nothing from one side of the grid to the other.
    """
    places = np.indices(grid).reshape(2, -1).T  # (T, 2)
    near = np.abs(places[:, None] - places[None]).max(axis=-1) <= radius  # (T, T)
    mask = np.zeros((prefix + len(places),) * 2, dtype=bool)
    mask[:, :prefix] = True
    mask[prefix:, prefix:] = near
    return mask


def first_states(width: int) -> np.ndarray:
    """What a recursion begins with at every token (2·width,): the answer, then the latent state, standard normal.

    TRM's code draws them once and does not train them either: no gradient would reach them where T > 1.
    """
    return stream("recursion", 0, "first states").standard_normal(2 * width, np.float32)
