"""Random loops: another depth at every step."""

from dataclasses import dataclass

from eltbench.trainers import register
from eltbench.trainers.base import Trainer
from eltbench.trainers.exits import Exit


@register("random-loops", version=1)
@dataclass(frozen=True)
class RandomLoops(Trainer):
    """Shared block, supervised at one exit alone, drawn per step uniformly from L_min to L_max, both included.

    The uniform counterpart of training at random recurrent depth (arXiv 2502.05171, log-normal Poisson there).
    gradient_loops: the gradient goes back through so many loops (8 there); 0: through all.
    """

    depth = "looped"

    gradient_loops: int = 0

    def __post_init__(self):
        if self.gradient_loops < 0:
            raise ValueError(f"trainer {self.name!r}: gradient_loops must be 0 or more, given {self.gradient_loops}")

    def exits(self, architecture, rng):
        drawn = int(rng.integers(architecture.min_loops, architecture.max_loops + 1))
        return (Exit(drawn, max(0, drawn - self.gradient_loops)) if self.gradient_loops else drawn,)

    def objective(self, outputs, batch, progress, task, ops):
        return {"last": task.loss(outputs[-1], batch, ops)}
