"""Random loops: another depth at every step."""

import math
from dataclasses import dataclass
from typing import Literal

from eltbench.trainers import register
from eltbench.trainers.base import Trainer
from eltbench.trainers.exits import Exit

SIGMA = 0.5  # of the logarithm of the Poisson rate


@register("random-loops", version=1)
@dataclass(frozen=True)
class RandomLoops(Trainer):
    """Shared block, supervised at one exit alone, drawn per step from L_min to L_max (arXiv 2502.05171, Huginn).

    distribution: "uniform", both ends included, or the paper's "poisson-log-normal": L_min (1 there) and a Poisson
    number more, of rate exp(τ) with τ normal of deviation σ = 1/2 and E exp(τ) = (L_max - L_min)/2, so that the mean is
    that of the uniform one before the cut: a draw beyond L_max counts as L_max. There it is 32 more, without a cut.
    gradient_loops: the gradient goes back through so many loops (8 there); 0: through all.

    Stochastic stopping (arXiv 2606.29983) draws loop counts at random too; only its abstract was to be had, which
    leaves open how, and its learned schedule is not built.
    """

    depth = "looped"

    gradient_loops: int = 0
    distribution: Literal["uniform", "poisson-log-normal"] = "uniform"

    def __post_init__(self):
        if self.gradient_loops < 0:
            raise ValueError(f"trainer {self.name!r}: gradient_loops must be 0 or more, given {self.gradient_loops}")

    def exits(self, architecture, rng):
        least, most = architecture.min_loops, architecture.max_loops
        if self.distribution == "uniform":
            drawn = int(rng.integers(least, most + 1))
        else:
            rate = (most - least) / 2 * math.exp(SIGMA * rng.standard_normal() - SIGMA**2 / 2)
            drawn = min(most, least + int(rng.poisson(rate)))
        return (Exit(drawn, max(0, drawn - self.gradient_loops)) if self.gradient_loops else drawn,)

    def objective(self, outputs, batch, progress, task, ops):
        return {"last": task.loss(outputs[-1], batch, ops)}
