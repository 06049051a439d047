"""The worker processes of a sweep on this machine: started, listened to, and ended with it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from selectors import EVENT_READ, DefaultSelector
from typing import Any

from filelock import Timeout

from eltbench.core import child
from eltbench.core.durations import duration
from eltbench.core.terminal import Terminated
from eltbench.execution.progress import Reporter
from eltbench.execution.store import RunStore
from eltbench.training.job import Job

PATIENCE = 10.0  # seconds in which a process that is told to pause saves its checkpoint
LOOK = 0.5  # seconds after which those that have not are looked for
Group = Sequence[list[Job]]
"""The jobs of one run, or of seeds that are trained together, run by run: what one process makes."""


@dataclass(frozen=True)
class End:
    """How a run's process ended; `made` is whether it trained or measured anything.

    paused: the step of its checkpoint, if it was stopped before the run was trained.
    """

    job: Job
    seconds: float = 0.0
    trained: bool = False
    made: bool = False
    error: str | None = None
    paused: int | None = None

    @property
    def how(self) -> str:
        """The same in words."""
        if self.error is not None:
            return f"FAILED: {self.error}"
        if self.paused is not None:
            return f"paused at step {self.paused}"
        return duration(self.seconds) if self.made else "made by another process"


Tell = Callable[[End], None]


@dataclass(frozen=True)
class Local:
    """Processes of this machine, `lanes` at a time; all of them end with this one, however it does.

    Ctrl-C or SIGTERM lets them pause, which raises KeyboardInterrupt when all have; a second one kills them.
    environment: variables that they have beside those of this process.
    """

    lanes: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)

    def make(self, groups: Sequence[Group], store: RunStore, progress: Reporter, tell: Tell) -> None:
        """Give each group a process of its own and tell every end; returns when all have ended."""
        waiting, running, told = deque(groups), set[Worker](), list[tuple[int, float]]()

        def hear(number: int) -> None:
            told.append((number, time.monotonic()))
            for worker in list(running):
                worker.process.send_signal(signal.SIGTERM if len(told) == 1 else signal.SIGKILL)
            if len(told) > 1:
                raise interruption(number)

        with interruptible(hear), DefaultSelector() as selector:
            try:
                while running or (waiting and not told):
                    while waiting and not told and len(running) < self.lanes:
                        group = waiting.popleft()
                        try:
                            worker = Worker(group, store, self.environment)
                        except OSError as error:
                            for jobs in group:
                                tell(End(jobs[0], error=f"no process could be started: {error}"))
                            continue
                        running.add(worker)
                        selector.register(worker.output, EVENT_READ, worker)
                        if told:  # while it started
                            worker.process.terminate()
                    for key, _ in selector.select(LOOK) if running else ():
                        if not key.data.listen(progress, tell):
                            selector.unregister(key.fileobj)
                            running.discard(key.data)
                            key.data.finish(tell, stopped=bool(told))
                    if told and time.monotonic() > told[0][1] + PATIENCE:
                        for worker in running:
                            worker.process.kill()
            finally:
                for worker in running:
                    worker.process.kill()  # which is safe, since every file appears whole
                    worker.close()
        if told:
            raise interruption(told[0][0])


class Worker:
    """A process that makes a group. It watches the pipe that this process holds open, and ends when that closes."""

    def __init__(self, group: Group, store: RunStore, environment: Mapping[str, str]) -> None:
        self.store, self._rest, self._error = store, b"", ""
        self._at_work = {jobs[0].run_id: jobs[0] for jobs in group}
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115, closed with the process
        threads = group[0][0].run.threads
        try:
            self.process = child.start("eltbench.execution.worker", threads, self._errors, environment)
        except OSError:
            self._errors.close()
            raise
        assert self.process.stdout is not None
        self.output = self.process.stdout
        child.send(self.process, {"store": str(store.root.resolve()), "make": [_asked(jobs) for jobs in group]})

    def listen(self, progress: Reporter, tell: Tell) -> bool:
        """Pass on new events; False at the end of its output."""
        said = os.read(self.output.fileno(), 65_536)
        *lines, self._rest = (self._rest + said).split(b"\n")
        for event in map(json.loads, lines):
            if "run" not in event:
                self._error = event["error"]
            elif "warning" in event:
                progress.warn(event["warning"])
            elif "phase" in event:
                name = self._at_work[event["run"]].name
                progress.phase(event["run"], name, event["phase"], event["fraction"])
            else:
                tell(_end(self._at_work.pop(event["run"]), event))
        return bool(said)

    def finish(self, tell: Tell, *, stopped: bool) -> None:
        """Report the runs that have not ended, with the error of all or the exit of their process."""
        code = self.process.wait()
        if not self._error and not stopped:
            self._errors.seek(0)
            said = self._errors.read().decode(errors="replace").strip()
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            for run_id in self._at_work:
                with contextlib.suppress(Timeout), self.store.lock(run_id).acquire(timeout=0):
                    self.store.fail(run_id, f"process {how}\n{said}\n")
            self._error = f"process {how}{f': {said.splitlines()[-1]}' if said else ''}"
        self.close()
        for job in self._at_work.values() if self._error else ():
            tell(End(job, error=self._error))

    def close(self) -> None:
        """Wait for its end and close its files."""
        self.process.wait()
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.output.close()
        self._errors.close()


def _asked(jobs: Sequence[Job]) -> dict[str, Any]:
    """The part of the message about the jobs of one run."""
    measurements = [
        {"study": job.study, "version": job.version, "settings": dict(job.settings)} for job in jobs if job.study
    ]
    return {"run": jobs[0].run.to_dict(), "measurements": measurements}


def _end(job: Job, event: Mapping[str, Any]) -> End:
    if "seconds" not in event:
        return End(job, error=event.get("error"), paused=event.get("paused"))
    return End(job, event["seconds"], event["trained"], made=event["trained"] or event["measured"] > 0)


@contextlib.contextmanager
def interruptible(hear: Callable[[int], None]) -> Iterator[None]:
    """Within it Ctrl-C and SIGTERM call `hear`, in the main thread only; a signal that is ignored stays so."""
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
    """The exception for a signal."""
    return Terminated() if number == signal.SIGTERM else KeyboardInterrupt()
