"""The interface of an engine, the one object through which a network is trained, run and stored."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from eltbench.accounting import NetworkSpec
from eltbench.backends import checkpoint
from eltbench.backends.checkpoint import Parts
from eltbench.backends.steps import Steps
from eltbench.core.arrays import Array
from eltbench.core.config import Run
from eltbench.core.fixed_point import Solver
from eltbench.core.validation import whole
from eltbench.tasks.base import Batch, ExitOutput, Ops, Task
from eltbench.trainers.base import Trainer

MOST_LOOPS = 10_000  # of one call; a loop count beyond it is a slip, and would run for hours
Report = Callable[[int, int], None]
"""report(steps done, steps in all)"""


class Recurrence(Protocol):
    """The looped map of one uploaded batch on averaged weights, in float32, open to the study of its dynamics.

    initial: the embedded input h_0, behind a prelude: the state before the first loop. A state is (B, T, width), with
    all that the loop carries on; T may count a prefix token more than `ExitOutput.state` does. solver: what takes
    `predict` from state to state by means of `loop` at equilibrium depth; None elsewhere, where a loop's result is the
    next state.
    """

    initial: Array
    solver: Solver | None

    def loop(self, state: Array, index: int) -> Array:
        """The state after loop `index` (1 is the first), given the state before it."""

    def read(self, state: Array) -> Array:
        """What coda and head make of a state; at universal depth without the halting's mean over earlier states."""

    def jacobian(self, state: Array, index: int) -> Callable[[Array], Array]:
        """v ↦ J·v, where J is the derivative of loop `index` at `state`; v is shaped like the state."""


class Engine(ABC):
    """A network with its optimiser and its averaged weights, built for one run.

    leads: whether this process keeps the run's files; one does, where several train it.
    """

    run: Run
    ops: Ops
    leads: bool = True

    @abstractmethod
    def __init__(self, run: Run, spec: NetworkSpec, trainer: Trainer, task: Task) -> None:
        """Fresh weights, drawn from the run's seed."""

    @staticmethod
    @abstractmethod
    def check_device(device: str, devices: int = 1) -> None:
        """Raise ValueError for a device, or a number of them, that this machine does not have, with what it has."""

    @staticmethod
    def launch(run: Run, train: Callable[[Report | None], object], report: Report | None) -> bool:
        """Train on the run's devices in as many processes, each of which calls `train`; RuntimeError if one fails.

        False where this backend needs none, or this is one of them: then the caller trains. `report` gets the progress
        of the one that leads.
        """
        return False

    @staticmethod
    def threads(run: Run) -> AbstractContextManager[None]:
        """A context in which this process computes with the run's threads; another number would round otherwise."""
        return nullcontext()

    @abstractmethod
    def step(self, batch: Batch, exits: tuple[int, ...], progress: float, learning_rate: float) -> dict[str, Array]:
        """One optimiser step on a host batch; returns the loss terms, `loss` and `gradient_norm` without waiting."""

    @abstractmethod
    def predict(
        self, batch: Batch, exits: Sequence[int], fields: tuple[str, ...] = ("prediction",)
    ) -> list[ExitOutput]:
        """One output per exit from the averaged weights, on arrays of the backend (see `upload`)."""

    @abstractmethod
    def recurrence(self, batch: Batch) -> Recurrence:
        """The loop that `predict` iterates on this batch of backend arrays, open to inspection."""

    @abstractmethod
    def steps(self, batch: Batch) -> Steps:
        """What `predict` runs on this batch of backend arrays, loop by loop."""

    @abstractmethod
    def upload(self, batch: Batch) -> Batch:
        """A host batch as arrays of the backend."""

    @abstractmethod
    def numpy(self, array: Array) -> np.ndarray:
        """An array of the backend on the host, in float32 or its integer type."""

    @property
    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of all trained values by the names that checkpoints know."""

    @abstractmethod
    def held(self, part: str) -> dict[str, np.ndarray]:
        """One of `checkpoint.PARTS` by the names of the trained values, on the host in float32."""

    @abstractmethod
    def restore(self, parts: Parts, step: int | None) -> None:
        """Go on from these parts at this step; without a step take over the average alone, to predict with."""

    def parameter_count(self) -> int:
        """Number of trained values."""
        return sum(map(math.prod, self.shapes.values()))

    def save(self, directory: Path, step: int) -> None:
        """Write weights, average, optimiser state and step, atomically: all or nothing is visible."""
        parts = {part: self.held(part) for part in checkpoint.PARTS}
        checkpoint.write(directory, step, self.run.to_dict(), parts)

    def load(self, directory: Path) -> int:
        """Read what `save` wrote and return its step; a damaged file raises ValueError."""
        step, parts = checkpoint.read(directory, self.shapes)
        self.restore(parts, step)
        return step

    def save_snapshot(self, directory: Path, step: int) -> None:
        """Write the averaged weights alone, atomically, beside the checkpoint and the snapshots of other steps."""
        checkpoint.write_snapshot(directory, step, self.held("average"))

    def load_snapshot(self, directory: Path, step: int) -> None:
        """Predict with the averaged weights of that step; ValueError for a damaged or missing file."""
        self.restore({"average": checkpoint.read_snapshot(directory, step, self.shapes)}, None)


class Seeds(Protocol):
    """Engines of one configuration that take every step together as one program; it takes over their states."""

    def __init__(self, engines: Sequence[Engine]) -> None: ...

    def step(
        self, batches: Sequence[Batch], exits: Sequence[tuple[int, ...]], progress: float, learning_rate: float
    ) -> dict[str, Array]:
        """As `Engine.step` for each, on its own batch and exits; the terms have one value (S,) per engine."""

    def engine(self, place: int) -> Engine:
        """The engine at this place as it stands now; the next step leaves it behind."""


def check_exits(exits: Sequence[int], *, deepest: int | None = None) -> tuple[int, ...]:
    """The exits as a tuple; ValueError unless they are strictly increasing and in 1..`deepest` and 1..MOST_LOOPS."""
    if isinstance(exits, range) and exits and abs(exits[-1] - exits[0]) > MOST_LOOPS:  # not made a list of
        raise ValueError(f"exits: a network is looped {MOST_LOOPS:,} times at most, given {exits}")
    try:
        listed: tuple[Any, ...] = tuple(exits)
    except TypeError:  # a number, or an array of one
        listed = (None,)
    if not all(map(whole, listed)):
        raise ValueError(f"exits: give loop counts such as (1, 2, 4), given {exits!r}")
    checked = tuple(map(int, listed))
    if not checked:
        raise ValueError("exits: give at least one loop count")
    if checked[0] < 1:
        raise ValueError(f"exits: a loop count is at least 1, given {list(checked)}")
    if any(later <= earlier for earlier, later in itertools.pairwise(checked)):
        raise ValueError(f"exits: loop counts must be strictly increasing, given {list(checked)}")
    if checked[-1] > MOST_LOOPS:
        raise ValueError(f"exits: a network is looped {MOST_LOOPS:,} times at most, given {checked[-1]:,}")
    if deepest is not None and checked[-1] > deepest:
        raise ValueError(f"exits: this unique-depth network ends at exit {deepest}, given {list(checked)}")
    return checked
