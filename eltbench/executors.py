"""Where the processes of a sweep run: on this machine, or on a dask cluster."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from joblib import Parallel, delayed

from eltbench.processes import Children, End, Group
from eltbench.progress import Reporter
from eltbench.runs import RunStore


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
    """Processes of this machine, `lanes` at a time; all of them end with this one, however it does."""

    lanes: int = 1

    def make(self, groups: Sequence[Group], store: RunStore, progress: Reporter, tell: Callable[[End], None]) -> None:
        children = Children(store, progress)
        heard = _on_interrupt(children.kill)
        try:
            parallel = Parallel(n_jobs=self.lanes, backend="threading", return_as="generator_unordered", batch_size=1)
            for _ in parallel(delayed(children.make)(group, tell) for group in groups):
                pass
        finally:
            children.end()
            if heard is not None:
                signal.signal(signal.SIGINT, heard)


@contextmanager
def opened(engine: Literal["local", "dask"], scheduler: str, workers: int) -> Iterator[Executor]:
    """The executor of a command line, closed at the end; raises ValueError where it cannot be had."""
    if engine == "local":
        yield Local(workers)
        return
    from eltbench.cluster import Dask

    with ExitStack() as held:
        yield Dask(scheduler, held)


def _on_interrupt(act: Callable[[], None]) -> Any:
    """Let Ctrl-C act before it is raised, since joblib may wait for its threads then; returns the handler before."""
    if threading.current_thread() is not threading.main_thread():
        return None  # only the main thread hears signals

    def interrupted(number: int, frame: Any) -> None:
        act()
        raise KeyboardInterrupt

    return signal.signal(signal.SIGINT, interrupted)
