"""What a trainer is: which exits are read at a step, and how their outputs combine into a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from eltbench.accounting import Depth
from eltbench.core.arrays import Array
from eltbench.core.config import Architecture
from eltbench.core.fixed_point import Solver, check_fixed_point
from eltbench.core.recursion import USUAL, Recursion, check_recursion
from eltbench.tasks.base import Batch, ExitOutput, Ops, Task


class Trainer(ABC):
    """How a network is supervised; dataclass fields are options and part of a run's identity.

    A trainer knows no optimiser, no loop and no backend.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    depth: ClassVar[Depth]
    fields: ClassVar[tuple[str, ...]] = ("prediction",)  # what `objective` needs of every exit
    data_kinds: ClassVar[tuple[str, ...]] = ("continuous", "tokens")  # of the tasks for which it has a loss
    architecture_defaults: ClassVar[Mapping[str, Any]] = {}  # of this trainer's arms, where a preset says nothing

    def check(self, architecture: Architecture) -> None:
        """Raise ValueError for an architecture that this trainer cannot train."""
        if self.depth == "unique" and architecture.max_loops != 1:
            raise ValueError(
                f"trainer {self.name!r} has no loops: give max_loops = 1 and all layers as unique_layers, "
                f"given max_loops = {architecture.max_loops}"
            )
        if self.depth == "equilibrium":
            check_fixed_point(architecture, self.solver(architecture))
        if self.depth == "recursive":
            check_recursion(architecture)

    @property
    def recursion(self) -> Recursion:
        """How often the network is applied in a loop; used at recursive depth only."""
        return USUAL

    def solver(self, architecture: Architecture) -> Solver:
        """How the fixed point is sought, plainly by default; used at equilibrium depth only."""
        return Solver()

    @abstractmethod
    def exits(self, architecture: Architecture, rng: np.random.Generator) -> tuple[int, ...]:
        """The loop counts at which the head is read at this step, strictly increasing.

        Where the gradient of one is to flow through the last loops alone, it is an `Exit`; neighbours with one `since`
        are read by one pass through the network, others by a further one.
        """

    def learns(self, exits: tuple[int, ...]) -> tuple[int, ...]:
        """Those of a step's exits whose outputs carry a gradient, all by default; for counting FLOPs alone."""
        return exits

    @abstractmethod
    def objective(
        self, outputs: list[ExitOutput], batch: Batch, progress: Array, task: Task, ops: Ops
    ) -> dict[str, Array]:
        """Named loss terms, whose sum is the loss; `progress` runs from 0 at the first step to 1 at the last.

        `progress` is a number or a scalar of the backend, of no known value while JAX compiles: compute with it, and
        choose by it with `where` instead of `if`.
        """
