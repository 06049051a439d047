"""Where the processes of a sweep run: on this machine, or on a dask cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Literal, Protocol

from eltbench.execution.processes import Group, Local, Tell, interruptible, interruption
from eltbench.execution.progress import Reporter
from eltbench.execution.store import RunStore


class Executor(Protocol):
    """Makes what a sweep found missing."""

    @property
    def lanes(self) -> int:
        """How many processes run at a time."""

    def make(self, groups: Sequence[Group], store: RunStore, progress: Reporter, tell: Tell) -> None:
        """Give each group a process of its own and tell every end, one at a time; returns when all have ended.

        Any way out before that, KeyboardInterrupt too, begins nothing more; what had finished stays.
        """


@contextmanager
def opened(engine: Literal["local", "dask"], scheduler: str, workers: int) -> Iterator[Executor]:
    """The executor of a command line, closed at the end; raises ValueError where it cannot be opened."""
    if engine == "local":
        yield Local(workers)
        return
    from eltbench.execution.cluster import Dask

    def hear(number: int) -> None:
        raise interruption(number)

    with interruptible(hear), ExitStack() as held:
        yield Dask(scheduler, held)
