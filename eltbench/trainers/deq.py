"""The deep equilibrium model: the output is a fixed point of the block."""

from dataclasses import dataclass
from typing import ClassVar

from eltbench.core.config import Architecture
from eltbench.core.fixed_point import Solver
from eltbench.trainers import register
from eltbench.trainers.base import Trainer

MEMORY = 5


@register("deq", version=1)
@dataclass(frozen=True)
class DEQ(Trainer):
    """Shared block whose fixed point is sought, supervised where L_max loops have come (DEQ, arXiv 1909.01377).

    Exits are iterations of the solver. A step runs L_max of them without a gradient and takes the gradient of a few
    damped ones more (phantom gradient, arXiv 2111.05177), so its memory does not grow with L_max.
    """

    depth = "equilibrium"
    architecture_defaults: ClassVar = {"input_injection": True}

    memory: int | None = None  # differences that Anderson acceleration combines, 0: plain iteration;
    # None: 5, but 0 where an attention radius is to limit how far information travels
    mixing: float = Solver.mixing  # share of the new residual
    ridge: float = Solver.ridge  # of the least squares, relative
    phantom_steps: int = Solver.phantom_steps  # through which the gradient flows
    damping: float = Solver.damping  # share of the block's output in each of them

    def __post_init__(self):
        self.solver(Architecture())  # refuses what is out of range

    def solver(self, architecture):
        accelerated = MEMORY if architecture.attention_radius is None else 0
        memory = accelerated if self.memory is None else self.memory
        return Solver(memory, self.mixing, self.ridge, self.phantom_steps, self.damping)

    def exits(self, architecture, rng):
        return (architecture.max_loops,)

    def objective(self, outputs, batch, progress, task, ops):
        return {"last": task.loss(outputs[-1], batch, ops)}
