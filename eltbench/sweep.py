"""Which runs are missing, and their making: a few at a time, each in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import IO, Any

from filelock import Timeout
from joblib import Parallel, delayed

from eltbench.atomic import check_writable
from eltbench.config import Run
from eltbench.progress import Reporter, duration, reporter
from eltbench.runs import Job, RunStore
from eltbench.worker import thread_environment

__all__ = ["Job", "Outcome", "Plan", "plan", "sweep"]


@dataclass
class Outcome:
    """The runs (by run_id) that this sweep made, that were there already, and that failed, with what they said."""

    done: list[str] = field(default_factory=list)
    cached: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What a sweep has before it: runs with nothing left to do, and the unfinished jobs of each other run."""

    cached: list[str]
    missing: dict[str, list[Job]]


def plan(jobs: Sequence[Job], store: RunStore) -> Plan:
    """Sort jobs into cached and missing by looking at the store, starting nothing.

    Jobs of one run come together, and jobs that differ in their keys alone count once.
    """
    by_run: dict[str, dict[str, Job]] = {}
    for job in jobs:
        by_run.setdefault(job.run_id, {})[f"{job.study}-{job.digest}" if job.study else ""] = job
    missing = {}
    for run_id, its in by_run.items():
        if left := [job for job in its.values() if not store.is_cached(job)]:
            missing[run_id] = left
    return Plan([run_id for run_id in by_run if run_id not in missing], missing)


def sweep(jobs: Sequence[Job], store: RunStore, workers: int = 1, progress: Reporter | None = None) -> Outcome:
    """Train and measure what is missing, `workers` runs at a time; a run that fails does not stop the others.

    Raises NotWritableError before anything starts when the store cannot be written to. KeyboardInterrupt, or any
    other way out, ends the running processes; what they had finished stays.
    """
    check_writable(store.root)
    planned = plan(jobs, store)
    outcome = Outcome(cached=planned.cached)
    if not planned.missing:
        return outcome
    progress = progress or reporter()
    durations = Durations(store, jobs)
    children = Children(store, progress)
    progress.begin(len(planned.missing), len(planned.cached))
    heard = _on_interrupt(children.kill)
    try:
        parallel = Parallel(n_jobs=workers, backend="threading", return_as="generator_unordered", batch_size=1)
        ends: Iterator[End] = parallel(delayed(children.make)(its) for its in planned.missing.values())
        left = dict(planned.missing)
        for end in ends:
            run_id = end.job.run_id
            del left[run_id]
            if end.error is not None:
                outcome.failed[run_id] = end.error
            elif end.made:
                outcome.done.append(run_id)
                durations.add(end.job.run, end.seconds, trained=end.trained)
            else:
                outcome.cached.append(run_id)  # another sweep made it while this one waited
            estimate = durations.expected([its[0].run for its in left.values()], workers)
            said = _line(end, len(planned.missing) - len(left), len(planned.missing), estimate)
            with children.talking:
                progress.finished(run_id, said)
    finally:
        children.end()
        progress.end()
        if heard is not None:
            signal.signal(signal.SIGINT, heard)
    return outcome


def _on_interrupt(act: Callable[[], None]) -> Any:
    """Let Ctrl-C act before it is raised, since joblib may wait for its threads then; returns the handler before."""
    if threading.current_thread() is not threading.main_thread():
        return None  # only the main thread hears signals

    def interrupted(number: int, frame: Any) -> None:
        act()
        raise KeyboardInterrupt

    return signal.signal(signal.SIGINT, interrupted)


@dataclass(frozen=True)
class End:
    """How a run's process ended; `made` is whether it trained or measured anything."""

    job: Job
    seconds: float = 0.0
    trained: bool = False
    made: bool = False
    error: str | None = None


class Children:
    """The processes at work. Each watches the pipe that this process holds open, and ends when it closes."""

    def __init__(self, store: RunStore, progress: Reporter) -> None:
        self.store, self.progress = store, progress
        self.talking = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._starting = threading.Lock()
        self._ended = False

    def make(self, jobs: list[Job]) -> End:
        """Run one worker process on the jobs of one run and wait for its end."""
        job = jobs[0]
        asked = [
            {"study": each.study, "version": each.version, "settings": dict(each.settings)}
            for each in jobs
            if each.study
        ]
        message = {"run": job.run.to_dict(), "runs": str(self.store.root.resolve()), "measurements": asked}
        with tempfile.TemporaryFile() as errors:
            try:
                child = self._start(job, errors)
            except OSError as error:
                return End(job, error=f"no process could be started: {error}")
            if child is None:
                return End(job, error="interrupted before it began")
            last = self._listen(child, job, json.dumps(message).encode() + b"\n")
            code = child.wait()
            self._running.discard(child)
            if "done" in last:
                return End(job, last["seconds"], last["trained"], made=last["trained"] or last["measured"] > 0)
            if "error" in last:
                return End(job, error=last["error"])
            return End(job, error=self._silent_end(job, code, errors))

    def kill(self) -> None:
        """Kill what runs, taking no lock, as a signal handler must; `end` waits for it afterwards."""
        self._ended = True
        for child in list(self._running):
            child.kill()

    def end(self) -> None:
        """Kill what still runs and start nothing more; killing is safe, since every file appears whole."""
        with self._starting:
            self._ended = True
        for child in list(self._running):
            child.kill()
            child.wait()

    def _start(self, job: Job, errors: IO[bytes]) -> subprocess.Popen[bytes] | None:
        with self._starting:
            if self._ended:
                return None
            child = subprocess.Popen(
                [sys.executable, "-m", "eltbench.worker"],
                stdin=subprocess.PIPE,  # kept open for the child's lifetime; no other child inherits it
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **thread_environment(job.run.threads)},
            )
            self._running.add(child)
            if self._ended:  # interrupted while it started
                child.kill()
            return child

    def _listen(self, child: subprocess.Popen[bytes], job: Job, message: bytes) -> dict[str, Any]:
        """Send the job, pass events on, and return the last one."""
        assert child.stdin is not None
        assert child.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(message)
            child.stdin.flush()
        event: dict[str, Any] = {}
        for line in child.stdout:
            if not line.endswith(b"\n"):
                break  # killed in the middle of a word
            event = json.loads(line)
            with self.talking:
                if "warning" in event:
                    self.progress.warn(event["warning"])
                elif "phase" in event:
                    self.progress.phase(job.run_id, job.name, *_doing(event))
        child.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()
        return event

    def _silent_end(self, job: Job, code: int, errors: IO[bytes]) -> str:
        """The message for a process that ended without one: killed, or crashed below Python."""
        if self._ended:
            return "interrupted; what it had finished stays"
        errors.seek(0)
        said = errors.read().decode(errors="replace").strip()
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        tail = f": {said.splitlines()[-1]}" if said else ""
        with contextlib.suppress(Timeout), self.store.lock(job.run_id).acquire(timeout=0):
            self.store.fail(job.run_id, f"process {how}\n{said}\n")
        return f"process {how}{tail}"


class Durations:
    """How long runs take, learnt from those that ended in this sweep or an earlier one.

    A run that is trained and lacks only a measurement is of another kind than one that is still to be trained.
    """

    def __init__(self, store: RunStore, jobs: Sequence[Job]) -> None:
        self._known: dict[tuple[Run, bool], list[float]] = {}
        self._trained = {job.run: store.state(job.run_id) == "done" for job in jobs}
        for run_id, run in {job.run_id: job.run for job in jobs}.items():
            record = store.record(run_id)
            if record and not record["resumed"]:
                self.add(run, record["seconds"], trained=True)

    def add(self, run: Run, seconds: float, *, trained: bool) -> None:
        """A run took `seconds`; `trained` is whether that was training, not measurement alone."""
        self._known.setdefault((replace(run, seed=0), trained), []).append(seconds)

    def to_train(self, run: Run) -> bool:
        """Whether the run was still to be trained when this began."""
        return not self._trained.get(run, False)

    def mean(self, run: Run) -> float | None:
        """Seconds that what is left of a run like this one took here, whatever its seed; None where unknown."""
        seconds = self._known.get((replace(run, seed=0), self.to_train(run)))
        return statistics.fmean(seconds) if seconds else None

    def expected(self, runs: Sequence[Run], workers: int) -> float | None:
        """Seconds until `runs` are made; one of an unknown kind counts as the mean of the known ones, if there are."""
        known = [seconds for run in runs if (seconds := self.mean(run)) is not None]
        others = [statistics.fmean(seconds) for seconds in self._known.values()]
        if not known and not others:
            return None
        typical = statistics.fmean(known or others)
        each = [typical if (seconds := self.mean(run)) is None else seconds for run in runs]
        return max(sum(each) / workers, max(each, default=0.0))


def _doing(event: dict[str, Any]) -> tuple[str, float | None]:
    if event["phase"] == "train":
        return f"training, step {event['step']} of {event['steps']}", event["step"] / event["steps"]
    if event["phase"] == "measure":
        return f"measuring for {event['study']}", None
    return "waiting for another process that makes this run", None


def _line(end: End, number: int, of: int, left: float | None) -> str:
    if end.error is not None:
        how = f"FAILED: {end.error}"
    elif end.made:
        how = duration(end.seconds)
    else:
        how = "made by another process"
    rest = "" if left is None or number == of else f", about {duration(left)} left"
    return f"[{number}/{of}] {end.job.name}: {how}{rest}"
