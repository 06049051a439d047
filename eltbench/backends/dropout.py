"""Dropout: what is left out of every layer's two additions to the state, drawn on the host for all backends.

One mask a pass, the same in every loop (Gal and Ghahramani, arXiv 1512.05287): a pass with dropout iterates one map, as
every pass does, so its exits agree with shallower passes and differ by their depth alone, and there is a fixed point to
seek at equilibrium depth. Masks differ between layers, items, tokens and channels and come from a stream of their own,
so that two trainers or backends of one seed drop the same, and runs without dropout keep their draws.
"""

from __future__ import annotations

import numpy as np

from eltbench.accounting import NetworkSpec
from eltbench.core.config import Architecture

BRANCHES = 2  # of a layer: attention and MLP


def draw_dropped(network: NetworkSpec, items: int, rng: np.random.Generator) -> np.ndarray | None:
    """What is dropped, (B, M, 2, P + T, D) bool with a share `architecture.dropout` of True; None at dropout 0.

    M layers: those of the prelude, of the block and of the coda.
    """
    architecture = network.architecture
    if not architecture.dropout:
        return None
    shape = (items, architecture.layers, BRANCHES, network.length, architecture.width)
    return rng.random(shape, np.float32) < np.float32(architecture.dropout)


def kept_scale(architecture: Architecture) -> float:
    """By what the kept is multiplied, 1/(1 - dropout): the expected addition is that without dropout.

    Raises ValueError at dropout 0, where nothing may be dropped.
    """
    if not architecture.dropout:
        raise ValueError("network: masks of dropout are given to a network whose architecture.dropout is 0")
    return 1 / (1 - architecture.dropout)
