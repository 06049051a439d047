"""The plain looped transformer: supervised at its last loop only."""

from dataclasses import dataclass

from eltbench.trainers import register
from eltbench.trainers.base import Trainer


@register("no-ilsd", version=1)
@dataclass(frozen=True)
class NoILSD(Trainer):
    """Shared block, supervised at L_max alone (arXiv 2604.09168, the baseline of section 5.4)."""

    depth = "looped"

    def exits(self, architecture, rng):
        return (architecture.max_loops,)

    def objective(self, outputs, batch, progress, task, ops):
        return {"teacher": task.loss(outputs[-1], batch, ops)}
