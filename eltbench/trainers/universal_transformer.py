"""The universal transformer: a shared block with adaptive computation time."""

from dataclasses import dataclass

from eltbench.core.arrays import namespace
from eltbench.trainers import register
from eltbench.trainers.base import Trainer


@register("universal-transformer", version=1)
@dataclass(frozen=True)
class UniversalTransformer(Trainer):
    """Shared block that halts per token, supervised at L_max with a ponder cost (arXiv 1807.03819, 1603.08983)."""

    depth = "universal"
    fields = ("prediction", "ponder")

    ponder_cost: float = 0.01

    def exits(self, architecture, rng):
        return (architecture.max_loops,)

    def objective(self, outputs, batch, progress, task, ops):
        ponder = outputs[-1].ponder
        return {
            "teacher": task.loss(outputs[-1], batch, ops),
            "ponder": self.ponder_cost * namespace(ponder).mean(ponder),
        }
