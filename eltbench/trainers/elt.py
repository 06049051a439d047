"""Elastic Looped Transformer: intra-loop self-distillation."""

from dataclasses import dataclass

from eltbench.trainers import register
from eltbench.trainers.base import Trainer


@register("elt", version=1)
@dataclass(frozen=True)
class ELT(Trainer):
    """Shared block, supervised at L_max and at one random earlier exit (ILSD, arXiv 2604.09168 eq. 1-3)."""

    depth = "looped"

    def check(self, architecture):
        super().check(architecture)
        if architecture.min_loops == architecture.max_loops:
            raise ValueError(
                f"trainer {self.name!r} draws L_int from min_loops ≤ L_int < max_loops: min_loops must be below "
                f"max_loops, given {architecture.min_loops} = {architecture.max_loops}"
            )

    def exits(self, architecture, rng):
        return int(rng.integers(architecture.min_loops, architecture.max_loops)), architecture.max_loops

    def objective(self, outputs, batch, progress, task, ops):
        student, teacher = outputs
        trust_in_labels = 1 - progress  # λ: 1 → 0
        fixed_teacher = teacher._replace(prediction=ops.stop_gradient(teacher.prediction))
        return {
            "teacher": task.loss(teacher, batch, ops),
            "student": trust_in_labels * task.loss(student, batch, ops),
            "distillation": (1 - trust_in_labels) * task.distillation(student, fixed_teacher, batch, ops),
        }
