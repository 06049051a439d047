"""The ordinary transformer: every layer has weights of its own."""

from dataclasses import dataclass

from eltbench.trainers import register
from eltbench.trainers.base import Trainer


@register("unique-depth", version=1)
@dataclass(frozen=True)
class UniqueDepth(Trainer):
    """Unshared layers, supervised at the end (arXiv 2604.09168, the baseline of Table 1)."""

    depth = "unique"

    def exits(self, architecture, rng):
        return (architecture.max_loops,)

    def objective(self, outputs, batch, progress, task, ops):
        return {"teacher": task.loss(outputs[-1], batch, ops)}
