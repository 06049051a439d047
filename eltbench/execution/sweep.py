"""Find the runs that are missing and make them, a few processes at a time."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from eltbench.core.atomic import check_writable
from eltbench.core.config import Run
from eltbench.core.durations import duration
from eltbench.execution.executors import Executor
from eltbench.execution.processes import End, Local
from eltbench.execution.progress import Reporter, reporter
from eltbench.execution.store import RunStore
from eltbench.training.job import Job
from eltbench.training.loop import check_vectorised


@dataclass
class Outcome:
    """The runs (by run_id) that this sweep made, that were there already, and that failed, with their errors."""

    done: list[str] = field(default_factory=list)
    cached: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """The work of a sweep: runs with nothing left to do, and the unfinished jobs of each other run."""

    cached: list[str]
    missing: dict[str, list[Job]]


def plan(jobs: Sequence[Job], store: RunStore) -> Plan:
    """Sort jobs into cached and missing by looking at the store, starting nothing.

    Jobs of one run come together, and jobs that differ in their keys alone count once.
    """
    by_run: dict[str, dict[str, Job]] = {}
    for job in jobs:
        by_run.setdefault(job.run_id, {})[f"{job.study}-{job.digest}" if job.study else ""] = job
    left = {run_id: [job for job in its.values() if not store.is_cached(job)] for run_id, its in by_run.items()}
    missing = {run_id: its for run_id, its in left.items() if its}
    return Plan([run_id for run_id in by_run if run_id not in missing], missing)


def with_companions(jobs: Sequence[Job], store: RunStore) -> list[Job]:
    """The jobs, then the trainings of the companions of all that are not finished."""
    asked = [run for job in jobs if job.companions and not store.is_cached(job) for run in job.companions]
    return [*jobs, *map(Job, dict.fromkeys(asked))]


def sweep(
    jobs: Sequence[Job],
    store: RunStore,
    workers: int = 1,
    progress: Reporter | None = None,
    *,
    vectorise_seeds: bool = False,
    executor: Executor | None = None,
) -> Outcome:
    """Train and measure what is missing, `workers` processes at a time; a run that fails does not stop the others.

    executor: where the processes run, if not on this machine; its `lanes` then replace `workers`.

    Each run has a process of its own; with `vectorise_seeds`, runs that differ in their seed alone are trained in one
    process, as one program. Raises NotWritableError before anything starts when the store cannot be written to,
    ValueError where seeds cannot be vectorised. Ctrl-C or SIGTERM lets the running processes save a checkpoint, then
    raises KeyboardInterrupt; any other way out ends them, and what they had finished stays.
    """
    if vectorise_seeds:
        for run in {replace(job.run, seed=0) for job in jobs}:
            check_vectorised(run)
    check_writable(store.root)
    executor, outcome = executor or Local(workers), Outcome()
    if len(every := with_companions(jobs, store)) > len(jobs):
        trainings = [Job(run) for run in dict.fromkeys(job.run for job in every)]
        outcome = sweep(trainings, store, progress=progress, vectorise_seeds=vectorise_seeds, executor=executor)
        jobs = [job for job in jobs if job.run_id not in outcome.failed]
    planned = plan(jobs, store)
    outcome.cached = planned.cached
    progress = progress or reporter()
    durations = Durations(store, jobs)
    left = grouped(planned.missing, store, vectorise_seeds)

    def seconds_left() -> float | None:
        going = [[its[0].run for its in group.values()] for group in left if group]
        return durations.expected([run for runs in going for run in runs], min(executor.lanes, max(1, len(going))))

    def ended(end: End) -> None:
        run_id = end.job.run_id
        for group in left:
            group.pop(run_id, None)
        if end.error is not None:
            outcome.failed[run_id] = end.error
        elif end.paused is not None:  # not made, where nobody interrupted this sweep but someone its process
            outcome.failed[run_id] = f"its process was told to end: paused at step {end.paused}"
        elif end.made:
            outcome.done += [run_id] if run_id not in outcome.done else []
            durations.add(end.job.run, end.seconds, trained=end.trained)
        else:
            outcome.cached.append(run_id)  # another sweep made it while this one waited
        number, of = len(planned.missing) - sum(map(len, left)), len(planned.missing)
        expected = None if number == of else seconds_left()
        rest = "" if expected is None else f", about {duration(expected)} left"
        progress.finished(run_id, f"[{number}/{of}] {end.job.name}: {end.how}{rest}")

    names = [jobs[0].name for jobs in planned.missing.values()]
    try:
        progress.begin(names, len(planned.cached), seconds_left() if names else None)
        if names:
            executor.make([list(group.values()) for group in left], store, progress, ended)
    finally:
        progress.end()
    return outcome


def grouped(missing: Mapping[str, list[Job]], store: RunStore, vectorise_seeds: bool) -> list[dict[str, list[Job]]]:
    """The missing runs by the process that makes them: each its own, or seeds that are trained together.

    A run that is trained and lacks a measurement alone is never one of several.
    """
    groups: dict[tuple[Run, bool], dict[str, list[Job]]] = {}
    for run_id, its in missing.items():
        together = vectorise_seeds and store.state(run_id) != "done"
        run = replace(its[0].run, seed=0) if together else its[0].run
        groups.setdefault((run, together), {})[run_id] = its
    return list(groups.values())


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

    def training(self, run: Run) -> float | None:
        """Seconds that training a run like this one took here, whatever its seed; None where unknown."""
        return self._mean(run, trained=True)

    def _mean(self, run: Run, *, trained: bool) -> float | None:
        seconds = self._known.get((replace(run, seed=0), trained))
        return statistics.fmean(seconds) if seconds else None

    def expected(self, runs: Sequence[Run], workers: int) -> float | None:
        """Seconds until `runs` are made; one of an unknown kind counts as the mean of the known ones, if there are."""
        means = [self._mean(run, trained=self.to_train(run)) for run in runs]
        known = [seconds for seconds in means if seconds is not None]
        known = known or [statistics.fmean(seconds) for seconds in self._known.values()]
        if not known:
            return None
        typical = statistics.fmean(known)
        return side_by_side([typical if seconds is None else seconds for seconds in means], workers)


def side_by_side(seconds: Sequence[float], workers: int) -> float:
    """Seconds until processes that take so long each have ended, `workers` of them at a time."""
    return max(sum(seconds) / workers, max(seconds, default=0.0))
