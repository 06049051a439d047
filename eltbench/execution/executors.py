"""Where the processes of a sweep run: on this machine, or on a dask cluster."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

from joblib import Parallel, delayed

from eltbench.core.terminal import Terminated
from eltbench.execution.processes import Children, End, Group
from eltbench.execution.progress import Reporter
from eltbench.execution.store import RunStore


class Executor(Protocol):
    """Makes what a sweep found missing."""

    @property
    def lanes(self) -> int:
        """How many processes run at a time."""

    def make(self, groups: Sequence[Group], store: RunStore, progress: Reporter, tell: Callable[[End], None]) -> None:
        """Give each group a process of its own and tell every end, one at a time; returns when all have ended.

        Any way out before that, KeyboardInterrupt too, begins nothing more; what had finished stays.
        """


@dataclass(frozen=True)
class Local:
    """Processes of this machine, `lanes` at a time; all of them end with this one, however it does.

    Ctrl-C or SIGTERM lets them pause, which raises KeyboardInterrupt when all have; a second one kills them.
    """

    lanes: int = 1

    def make(self, groups: Sequence[Group], store: RunStore, progress: Reporter, tell: Callable[[End], None]) -> None:
        children, told = Children(store, progress), list[int]()

        def hear(number: int) -> None:
            told.append(number)
            if len(told) == 1:
                children.pause()  # joblib goes on until all have ended
            else:
                children.kill()
                raise interruption(number)

        with interruptible(hear):
            try:
                parallel = Parallel(
                    n_jobs=self.lanes, backend="threading", return_as="generator_unordered", batch_size=1
                )
                for _ in parallel(delayed(children.make)(group, tell) for group in groups):
                    pass
            finally:
                children.end()
        if told:
            raise interruption(told[0])


@contextmanager
def opened(engine: Literal["local", "dask"], scheduler: str, workers: int) -> Iterator[Executor]:
    """The executor of a command line, closed at the end; raises ValueError where it cannot be had."""
    if engine == "local":
        yield Local(workers)
        return
    from eltbench.execution.cluster import Dask

    def hear(number: int) -> None:
        raise interruption(number)

    with interruptible(hear), ExitStack() as held:
        yield Dask(scheduler, held)


@contextmanager
def interruptible(hear: Callable[[int], None]) -> Iterator[None]:
    """Within it `hear` is told of Ctrl-C and SIGTERM, in the main thread alone; a signal that is ignored stays so."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, lambda number, frame: hear(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def interruption(number: int) -> KeyboardInterrupt:
    """What is raised for a signal."""
    return Terminated() if number == signal.SIGTERM else KeyboardInterrupt()
