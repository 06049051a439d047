"""What the backends share of adaptive computation time: the threshold, and the account of every token."""

from __future__ import annotations

from typing import NamedTuple

from eltbench.core.arrays import Array

EPSILON = 0.01  # a token halts once its probabilities sum to 1 - EPSILON


class Tally(NamedTuple):
    """The halting of every token before its state after the current loop is counted; all but the first (B, T, 1).

    accumulated: (B, T, D), the weighted sum of earlier states, complete where the token has halted.
    unspent: 1 minus the probabilities before the loop at which the token halted, or before the current loop.
    running: True where the token had not halted before the current loop.
    loops: loops in which the token took part, the current one included.
    """

    accumulated: Array
    unspent: Array
    running: Array
    loops: Array
