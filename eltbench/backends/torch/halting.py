"""Adaptive computation time: how many loops each token takes part in, and what it outputs then."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from eltbench.backends.steps import EPSILON, Tally


class Halting(nn.Module):
    """Graves' accumulation (arXiv 1603.08983) as the universal transformer uses it (arXiv 1807.03819).

    p_t = sigmoid(W·s_t + b), b learned from 1. A token halts at the first loop N with Σ_{t≤N} p_t ≥ 1 - ε. At cap r,
    n = min(N, r): output Σ_{t<n} p_t s_t + (1 - Σ_{t<n} p_t) s_n, ponder n + 1 - Σ_{t<n} p_t. Nothing here feeds back
    into the recurrent state, so every exit equals a run that is capped there.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1)

    def start(self, state: Tensor) -> Tally:
        """The tally at the first loop; state (B, T, D)."""
        ones = torch.ones_like(state[..., :1], dtype=torch.float32 if state.dtype == torch.bfloat16 else state.dtype)
        return Tally(torch.zeros_like(state), ones, torch.ones_like(ones, dtype=torch.bool), ones)

    def advance(self, tally: Tally, state: Tensor) -> Tally:
        """The tally for the next loop, given the state (B, T, D) after the current one."""
        probability = torch.sigmoid(self.linear(state).to(tally.unspent.dtype))  # (B, T, 1)
        left = tally.unspent - probability
        goes_on = tally.running & (left > EPSILON)
        share = torch.where(goes_on, probability, tally.unspent) * tally.running
        return Tally(
            torch.addcmul(tally.accumulated, share, state),
            torch.where(goes_on, left, tally.unspent),
            goes_on,
            tally.loops + goes_on,
        )

    def output(self, tally: Tally, state: Tensor) -> Tensor:
        """What the head reads (B, T, D) if the current loop is the cap: the remainder falls on its state."""
        return torch.addcmul(tally.accumulated, tally.unspent * tally.running, state)

    def ponder(self, tally: Tally) -> Tensor:
        """Loops spent plus remainder (B, T) if the current loop is the cap."""
        return (tally.loops + tally.unspent).squeeze(-1)

    def unhalted(self, tally: Tally) -> Tensor:
        """The probability (B, T) left to the loops from the tally's current one on: 0 for tokens that have halted."""
        return (tally.unspent * tally.running).squeeze(-1)
