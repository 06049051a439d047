"""Progressive loss: loops from wherever the model stands, whatever led there."""

from dataclasses import dataclass

from eltbench.trainers import register
from eltbench.trainers.base import Trainer
from eltbench.trainers.exits import Exit


@register("progressive", version=1)
@dataclass(frozen=True)
class Progressive(Trainer):
    """Shared block with the progressive loss of arXiv 2202.05826 (Bansal et al.), at one random start and exit.

    With m = L_max: n is drawn uniformly from 0 to m − 1 and k from 1 to m − n; after n loops the state is taken as
    constant, k more follow, and the exit there gives loss P. All m loops give loss M. The loss is (1 − α) M + α P; at
    α = 1 the whole pass is left out, at α = 0 the other.

    The paper chooses α per task, from 0.01 (mazes) to 1 (prefix sums), without a rule; 0.5, its value for chess, is the
    default here. It always recalls the input: give `input_injection`.
    """

    depth = "looped"

    alpha: float = 0.5

    def __post_init__(self):
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"trainer {self.name!r}: alpha must be in [0, 1], given {self.alpha}")

    def exits(self, architecture, rng):
        deepest = architecture.max_loops
        start = int(rng.integers(deepest))
        partial = Exit(start + int(rng.integers(1, deepest - start + 1)), start)
        if self.alpha == 1:
            return (partial,)
        return (deepest,) if self.alpha == 0 else (partial, deepest)

    def objective(self, outputs, batch, progress, task, ops):
        weights = {"progressive": self.alpha, "last": 1 - self.alpha}
        asked = [(name, weight) for name, weight in weights.items() if weight]
        return {
            name: weight * task.loss(output, batch, ops) for (name, weight), output in zip(asked, outputs, strict=True)
        }
