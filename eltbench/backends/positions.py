"""Fixed tables of a network, in NumPy, so that two backends hold the same numbers: positions, frequencies, masks,
and the first states of a recursion.
"""

from __future__ import annotations

import numpy as np

from eltbench.core.streams import stream

LONGEST_PERIOD = 64.0  # of log-SNR, in nats: over [-15, 15] its sine is one-to-one
SHORTEST_PERIOD = 1.0
ROTARY_BASE = 100.0  # of rotary frequencies on a grid, whose sides are short (arXiv 2403.13298)


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


def rotations(grid: tuple[int, int], size: int, prefix: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and signed sines (P + T, size) by which a head's queries and keys turn (RoFormer, arXiv 2104.09864).

    Axial, as in RoPE-ViT (arXiv 2403.13298): the first half of a head turns with the row, the second with the column,
    at frequencies 100^(-4i / size), i < size / 4; `prefix` tokens do not turn. Value i of a half pairs with value
    i + size / 4: (a, b) becomes (a cos - b sin, b cos + a sin), so a product of query and key knows offsets alone.
    """
    frequencies = ROTARY_BASE ** (-np.arange(size // 4) / (size // 4))
    rows, columns = (axis.reshape(-1, 1) * frequencies for axis in np.indices(grid))  # (T, size / 4)
    angles = np.pad(np.stack([rows, columns], axis=1), ((prefix, 0), (0, 0), (0, 0)))  # (P + T, 2, size / 4)
    cosines, sines = np.stack([np.cos(angles)] * 2, axis=2), np.stack([-np.sin(angles), np.sin(angles)], axis=2)
    flat = (len(angles), size)
    return cosines.reshape(flat).astype(np.float32), sines.reshape(flat).astype(np.float32)


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
