"""Elastic Looped Transformer: intra-loop self-distillation."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from eltbench.core.arrays import Array, namespace
from eltbench.trainers import register
from eltbench.trainers.base import Trainer

# λ of a schedule at progress p, with the Array API's functions in xp; p may be of no known value yet: no `if`.
DECAYS: dict[str, Callable[[Array, Any], Array]] = {
    "linear": lambda p, xp: 1 - p,
    "cosine": lambda p, xp: (1 + xp.cos(xp.pi * p)) / 2,
    "step": lambda p, xp: xp.where(p < 0.5, 1.0, 0.0),
    "early-only": lambda p, xp: xp.where(p < 0.5, 1 - 2 * p, 0.0),
    "constant-1": lambda p, xp: 1.0,
    "constant-0": lambda p, xp: 0.0,
}


@register("elt", version=1)
@dataclass(frozen=True)
class ELT(Trainer):
    """Shared block, supervised at L_max and at one random earlier exit (ILSD, arXiv 2604.09168 eq. 1-3).

    Loss GT(F(L_max), y) + λ·GT(F(L_int), y) + (1 - λ)·dist(F(L_int), stop_gradient(F(L_max))); each term can be
    switched off. `decay` says how λ depends on the progress p, 0 at the first step and 1 at the last:

    linear: 1 - p, the paper's. cosine: (1 + cos πp) / 2. step: 1 where p < 1/2, then 0. early-only: max(0, 1 - 2p).
    constant-1: 1, the student learns from the labels alone. constant-0: 0, it learns from the teacher alone.
    """

    depth = "looped"

    decay: Literal["linear", "cosine", "step", "early-only", "constant-1", "constant-0"] = "linear"
    teacher: bool = True  # supervise L_max
    student: bool = True  # supervise L_int, as far as λ trusts the labels
    distillation: bool = True  # draw L_int towards L_max

    def __post_init__(self):
        if not self.teacher and (not self.student or self.decay == "constant-0"):
            raise ValueError(
                f"trainer {self.name!r}: no term reads the labels with {self}: switch on the teacher's term, or the "
                "student's with a decay other than 'constant-0'"
            )

    def check(self, architecture):
        super().check(architecture)
        if architecture.min_loops == architecture.max_loops:
            raise ValueError(
                f"trainer {self.name!r} draws L_int from min_loops ≤ L_int < max_loops: min_loops must be below "
                f"max_loops, given {architecture.min_loops} = {architecture.max_loops}"
            )

    def exits(self, architecture, rng):
        return int(rng.integers(architecture.min_loops, architecture.max_loops)), architecture.max_loops

    def learns(self, exits):
        student, teacher = exits
        learns = {student: self.student or self.distillation, teacher: self.teacher}
        return tuple(at for at in exits if learns[at])

    def objective(self, outputs, batch, progress, task, ops):
        student, teacher = outputs
        trust = trust_in_labels(self.decay, progress)  # λ
        terms = {}
        if self.teacher:
            terms["teacher"] = task.loss(teacher, batch, ops)
        if self.student:
            terms["student"] = trust * task.loss(student, batch, ops)
        if self.distillation:
            fixed_teacher = teacher._replace(prediction=ops.stop_gradient(teacher.prediction))
            terms["distillation"] = (1 - trust) * task.distillation(student, fixed_teacher, batch, ops)
        return terms


def trust_in_labels(decay: str, progress: Array) -> Array:
    """λ of a schedule (see `ELT`) at this progress: a number for a number, else a scalar of the backend."""
    if isinstance(progress, int | float):
        return float(DECAYS[decay](np.float64(progress), np))
    return DECAYS[decay](progress, namespace(progress))
