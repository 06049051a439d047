"""Random loops: another depth at every step."""

from dataclasses import dataclass

from eltbench.trainers import register
from eltbench.trainers.base import Trainer


@register("random-loops", version=1)
@dataclass(frozen=True)
class RandomLoops(Trainer):
    """Shared block, supervised at one exit alone, drawn per step uniformly from L_min to L_max, both included.

    The uniform counterpart of training at random recurrent depth (arXiv 2502.05171, log-normal Poisson there).
    """

    depth = "looped"

    def exits(self, architecture, rng):
        return (int(rng.integers(architecture.min_loops, architecture.max_loops + 1)),)

    def objective(self, outputs, batch, progress, task, ops):
        return {"last": task.loss(outputs[-1], batch, ops)}
