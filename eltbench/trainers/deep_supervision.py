"""Deep supervision: the ground truth at every exit."""

from dataclasses import dataclass
from typing import Literal

from eltbench.trainers import register
from eltbench.trainers.base import Trainer


@register("deep-supervision", version=1)
@dataclass(frozen=True)
class DeepSupervision(Trainer):
    """Shared block, supervised at every exit from L_min to L_max (deeply-supervised nets, arXiv 1409.5185).

    The i-th of n exits weighs 1/n (`uniform`), or i / (1 + … + n) (`final`: the deeper, the more; the weights of
    CALM's layers, arXiv 2207.07061). Either way they sum to one, so that the loss is of the size of a single exit's.
    """

    depth = "looped"

    weighting: Literal["uniform", "final"] = "uniform"

    def exits(self, architecture, rng):
        return tuple(range(architecture.min_loops, architecture.max_loops + 1))

    def objective(self, outputs, batch, progress, task, ops):
        n = len(outputs)
        weights = [1 if self.weighting == "uniform" else i for i in range(1, n + 1)]
        return {
            f"exit {i} of {n}": weight / sum(weights) * task.loss(output, batch, ops)
            for i, (weight, output) in enumerate(zip(weights, outputs, strict=True), 1)
        }
