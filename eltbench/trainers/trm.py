"""The tiny recursive model: an answer and a latent state, improved in turn and judged at every loop."""

from dataclasses import dataclass

from eltbench.core.arrays import namespace
from eltbench.core.recursion import Recursion
from eltbench.trainers import register
from eltbench.trainers.base import Trainer


@register("trm", version=1)
@dataclass(frozen=True)
class TRM(Trainer):
    """Shared network of two states, supervised at every loop, with a halting logit (TRM, arXiv 2510.04871).

    A loop is a supervised step: T recursions, each n times z ← net(z + y + x) and once y ← net(y + z), with x the
    embedded input and net the N layers and a norm without weights. The gradient goes through its last recursion alone.
    At every exit y gives the answer and, from its mean over tokens, the logit that the answer is right as a whole; the
    losses are cross-entropy and binary cross-entropy, averaged over the exits.

    The paper makes one optimiser step per supervised step and carries (y, z) on; here one step of a batch sums the
    gradients of all of them. There an item whose logit is positive makes room for another; here every item takes all
    L_max loops, in training as in evaluation (16 there). It adds the halting loss in full in its pseudocode and halved
    in its code, the default here. Its code takes the logit from a token of the puzzle's identity, which there is none
    of here, draws the first y and z at random and keeps them (the same for all seeds here), and normalises behind each
    addition without weights: norm "post" of block "bert" is the nearest.
    """

    depth = "recursive"
    fields = ("prediction", "halting")
    data_kinds = ("tokens",)

    latent_steps: int = Recursion.latent_steps  # n
    recursions: int = Recursion.recursions  # T
    halting_weight: float = 0.5

    def __post_init__(self):
        _ = self.recursion  # refuses what is out of range
        if not self.halting_weight >= 0:
            raise ValueError(f"trainer {self.name!r}: halting_weight must be 0 or more, given {self.halting_weight}")

    @property
    def recursion(self):
        return Recursion(self.latent_steps, self.recursions)

    def exits(self, architecture, rng):
        return tuple(range(architecture.min_loops, architecture.max_loops + 1))

    def objective(self, outputs, batch, progress, task, ops):
        answers = [task.loss(output, batch, ops) for output in outputs]
        halting = [halting_loss(output, batch, task) for output in outputs]
        return {
            "answer": sum(answers) / len(outputs),
            "halting": self.halting_weight * sum(halting) / len(outputs),
        }


def halting_loss(output, batch, task):
    """Binary cross-entropy of the halting logit with whether an item is right, the mean over items."""
    logit, xp = output.halting[:, 0], namespace(output.halting)
    right = xp.astype(task.right(output, batch), logit.dtype)
    return xp.mean(xp.logaddexp(xp.zeros_like(logit), logit) - right * logit)
