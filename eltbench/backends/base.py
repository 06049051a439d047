"""What an engine is: the one object through which a network is trained, asked and stored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from eltbench.config import Run
from eltbench.data.base import DataSpec
from eltbench.tasks.base import Array, Batch, ExitOutput, Ops, Task
from eltbench.trainers.base import Trainer


class Engine(ABC):
    """A network with its optimiser and its averaged weights, built for one run."""

    ops: Ops

    @abstractmethod
    def __init__(self, run: Run, spec: DataSpec, trainer: Trainer, task: Task) -> None:
        """Fresh weights, drawn from the run's seed."""

    @abstractmethod
    def step(self, batch: Batch, exits: tuple[int, ...], progress: float, learning_rate: float) -> dict[str, Array]:
        """One optimiser step on a host batch; returns the loss terms, `loss` and `gradient_norm` without waiting."""

    @abstractmethod
    def predict(
        self, batch: Batch, exits: Sequence[int], fields: tuple[str, ...] = ("prediction",)
    ) -> list[ExitOutput]:
        """One output per exit from the averaged weights, on arrays of the backend (see `upload`)."""

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


def check_exits(exits: Sequence[int], *, deepest: int | None = None) -> tuple[int, ...]:
    """The exits as a tuple; raises ValueError unless they are strictly increasing, at least 1 and at most `deepest`."""
    checked: tuple[int, ...] = tuple(int(exit) for exit in exits)
    if not checked:
        raise ValueError("exits: give at least one loop count")
    if checked[0] < 1:
        raise ValueError(f"exits: a loop count is at least 1, given {list(checked)}")
    if any(later <= earlier for earlier, later in zip(checked, checked[1:], strict=False)):
        raise ValueError(f"exits: loop counts must be strictly increasing, given {list(checked)}")
    if deepest is not None and checked[-1] > deepest:
        raise ValueError(f"exits: this unique-depth network ends at exit {deepest}, given {list(checked)}")
    return checked


