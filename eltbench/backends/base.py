"""What an engine is: the one object through which a network is trained, asked and stored."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from eltbench.backends.steps import Steps
from eltbench.core.arrays import Array
from eltbench.core.config import Run
from eltbench.core.fixed_point import Solver
from eltbench.core.validation import whole
from eltbench.data.base import DataSpec
from eltbench.tasks.base import Batch, ExitOutput, Ops, Task
from eltbench.trainers.base import Trainer

MOST_LOOPS = 10_000  # of one call; a loop count beyond it is a slip, and would run for hours
Report = Callable[[int, int], None]
"""report(steps done, steps in all)"""


class Recurrence(Protocol):
    """The looped map of one uploaded batch on averaged weights, in float32, open to the study of its dynamics.

    initial: the embedded input h_0, the state before the first loop. A state is (B, T, width) with all that the loop
    carries on; T may count a prefix token more than `ExitOutput.state` does. solver: what takes `predict` from state to
    state by means of `loop` at equilibrium depth; None elsewhere, where a loop's result is the next state.
    """

    initial: Array
    solver: Solver | None

    def loop(self, state: Array, index: int) -> Array:
        """The state after loop `index` (1 is the first), given the state before it."""

    def read(self, state: Array) -> Array:
        """The head's prediction from a state; at universal depth without the halting's mean over earlier states."""

    def jacobian(self, state: Array, index: int) -> Callable[[Array], Array]:
        """v ↦ J·v, where J is the derivative of loop `index` at `state`; v is shaped like the state."""


class Engine(ABC):
    """A network with its optimiser and its averaged weights, built for one run."""

    run: Run  # as it is trained or was trained, on the device of this engine
    ops: Ops
    leads: bool = True  # whether this process keeps the run's files; one does, where several train it

    @abstractmethod
    def __init__(self, run: Run, spec: DataSpec, trainer: Trainer, task: Task) -> None:
        """Fresh weights, drawn from the run's seed."""

    @staticmethod
    @abstractmethod
    def check_device(device: str, devices: int = 1) -> None:
        """Raise ValueError for a device, or a number of them, that this machine does not have, with what it has."""

    @staticmethod
    def launch(run: Run, train: Callable[[Report | None], object], report: Report | None) -> bool:
        """Train on the run's devices in as many processes, each of which calls `train`, if this backend does it so.

        False where it does not, or this is one of them: the caller goes on and trains. `report` hears the progress of
        the one that leads. Raises RuntimeError with what a process said that failed.
        """
        return False

    @staticmethod
    def threads(run: Run) -> AbstractContextManager[None]:
        """Within this context this process computes with the run's threads, since another number rounds otherwise."""
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

    @abstractmethod
    def parameter_count(self) -> int:
        """Number of trained values."""

    @abstractmethod
    def save(self, directory: Path, step: int) -> None:
        """Write weights, average, optimiser state and step, atomically: all or nothing is visible."""

    @abstractmethod
    def load(self, directory: Path) -> int:
        """Read what `save` wrote and return its step; a damaged file raises ValueError."""

    @abstractmethod
    def save_snapshot(self, directory: Path, step: int) -> None:
        """Write the averaged weights alone, atomically, beside the checkpoint and the snapshots of other steps."""

    @abstractmethod
    def load_snapshot(self, directory: Path, step: int) -> None:
        """Predict with the averaged weights of that step; ValueError for a damaged or missing file."""


class Seeds(Protocol):
    """Engines of one configuration, each with a seed of its own, that take every step together as one program.

    Made of the engines, whose states it takes over: ask `engine` for one that can be asked or saved.
    """

    def __init__(self, engines: Sequence[Engine]) -> None: ...

    def step(
        self, batches: Sequence[Batch], exits: Sequence[tuple[int, ...]], progress: float, learning_rate: float
    ) -> dict[str, Array]:
        """As `Engine.step` for each, on its own batch and exits; the terms have one value (S,) per engine."""

    def engine(self, place: int) -> Engine:
        """The engine at this place as it stands now; the next step leaves it behind."""


def check_exits(exits: Sequence[int], *, deepest: int | None = None) -> tuple[int, ...]:
    """The exits as a tuple; raises ValueError unless they are strictly increasing, at least 1 and at most `deepest`.

    Nobody runs more than `MOST_LOOPS` loops.
    """
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
