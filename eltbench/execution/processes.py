"""The worker processes of a sweep: started, listened to, and ended with it."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from filelock import Timeout

from eltbench.core import child
from eltbench.execution.progress import Reporter
from eltbench.execution.store import RunStore
from eltbench.training.job import Job

PATIENCE = 10.0  # seconds in which a process that is told to pause saves its checkpoint
Group = Sequence[list[Job]]
"""The jobs of one run, or of seeds that are trained together, run by run: what one process makes."""


@dataclass(frozen=True)
class End:
    """How a run's process ended; `made` is whether it trained or measured anything.

    paused: the step whose checkpoint it left, where it was told to end before it had trained the run.
    """

    job: Job
    seconds: float = 0.0
    trained: bool = False
    made: bool = False
    error: str | None = None
    paused: int | None = None


class Children:
    """The processes at work. Each watches the pipe that this process holds open, and ends when it closes.

    environment: variables that they have beside those of this process.
    """

    def __init__(self, store: RunStore, progress: Reporter, environment: Mapping[str, str] | None = None) -> None:
        self.store, self.progress, self.environment = store, progress, environment or {}
        self._talking = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._starting = threading.Lock()
        self._ended = False

    def make(self, group: Group, tell: Callable[[End], None]) -> None:
        """Run one worker process on the jobs of a run, or of seeds trained together; tell each end, one at a time.

        After `pause`, `kill` or `end` none is started, and of those at work only what they say themselves is told.
        """
        at_work = {jobs[0].run_id: jobs[0] for jobs in group}
        why: str | None
        with tempfile.TemporaryFile() as errors:
            try:
                process = self._start(group[0][0].run.threads, errors)
            except OSError as error:
                why = f"no process could be started: {error}"
            else:
                if process is None:
                    return
                child.send(process, {"store": str(self.store.root.resolve()), "make": [_asked(jobs) for jobs in group]})
                said = self._listen(process, at_work, tell)
                code = process.wait()
                self._running.discard(process)
                why = said or self._silent_end(at_work, code, errors)
        if why is not None:
            with self._talking:
                for job in at_work.values():
                    tell(End(job, error=why))

    def pause(self) -> None:
        """Let what runs save a checkpoint and end, taking no lock, as a signal handler must; it must end in time."""
        self._ended = True
        for process in list(self._running):
            process.terminate()
        late = threading.Timer(PATIENCE, self.kill)
        late.daemon = True
        late.start()

    def kill(self) -> None:
        """Kill what runs, taking no lock, as a signal handler must; `end` waits for it afterwards."""
        self._ended = True
        for process in list(self._running):
            process.kill()

    def end(self) -> None:
        """Kill what still runs and start nothing more; killing is safe, since every file appears whole."""
        with self._starting:
            self.kill()
        for process in list(self._running):
            process.wait()

    def _start(self, threads: int, errors: IO[bytes]) -> subprocess.Popen[bytes] | None:
        with self._starting:
            if self._ended:
                return None
            process = child.start("eltbench.execution.worker", threads, errors, self.environment)
            self._running.add(process)
            if self._ended:  # interrupted while it started
                process.kill()
            return process

    def _listen(
        self, process: subprocess.Popen[bytes], at_work: dict[str, Job], tell: Callable[[End], None]
    ) -> str | None:
        """Pass events on; a run that ends is no longer `at_work`. Gives an error of all runs."""
        assert process.stdin is not None
        assert process.stdout is not None
        error = None
        for line in process.stdout:
            if not line.endswith(b"\n"):
                break  # killed in the middle of a word
            event = json.loads(line)
            with self._talking:
                if "run" not in event:
                    error = event["error"]
                elif "warning" in event:
                    self.progress.warn(event["warning"])
                elif "phase" in event:
                    name = at_work[event["run"]].name
                    self.progress.phase(event["run"], name, event["phase"], event["fraction"])
                else:
                    tell(_end(at_work.pop(event["run"]), event))
        process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        return error

    def _silent_end(self, run_ids: Iterable[str], code: int, errors: IO[bytes]) -> str | None:
        """The message for runs whose process ended without one: killed, or crashed below Python; None by `kill`."""
        if self._ended:
            return None
        errors.seek(0)
        said = errors.read().decode(errors="replace").strip()
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        tail = f": {said.splitlines()[-1]}" if said else ""
        for run_id in run_ids:
            with contextlib.suppress(Timeout), self.store.lock(run_id).acquire(timeout=0):
                self.store.fail(run_id, f"process {how}\n{said}\n")
        return f"process {how}{tail}"


def _asked(jobs: Sequence[Job]) -> dict[str, Any]:
    """What a worker is told of the jobs of one run."""
    measurements = [
        {"study": job.study, "version": job.version, "settings": dict(job.settings)} for job in jobs if job.study
    ]
    return {"run": jobs[0].run.to_dict(), "measurements": measurements}


def _end(job: Job, event: dict[str, Any]) -> End:
    if "seconds" not in event:
        return End(job, error=event.get("error"), paused=event.get("paused"))
    return End(job, event["seconds"], event["trained"], made=event["trained"] or event["measured"] > 0)
