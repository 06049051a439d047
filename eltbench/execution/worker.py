"""One run, or seeds trained together, in a process of its own: `python -m eltbench.execution.worker`.

The message (see `core.child`) is {"store": folder of the run cache, "make": [{"run": …, "measurements": [{"study": …,
"version": …, "settings": {…}}, …]}, …]}. Answers have "run", the run's id: {"phase": words, "fraction": done or null},
{"warning": …}, and as each run's last {"done": true, "trained": …, "measured": …, "seconds": …}, {"paused": step} or
{"error": …}; an error without "run" is that of all runs that have not ended.

SIGTERM ends this process at once, except while it trains on one device: then the step is finished, a checkpoint saved,
and nothing more begun.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import Timeout

from eltbench import backends
from eltbench.core import child
from eltbench.core.child import Emit, in_words
from eltbench.core.config import Run, run_from_dict
from eltbench.execution.store import WEIGHTS, RunStore
from eltbench.training.job import Job

if TYPE_CHECKING:
    from eltbench.training.model import Model

REPORT_EVERY = 0.5  # seconds between two events of one phase


def work(runs: Sequence[list[Job]], store: RunStore, emit: Emit) -> None:
    """Train runs that differ in their seed alone and make the measurements that the jobs of each name.

    Cached results are not made again. A run that another process holds is left to it and checked after the others;
    while waiting, this process holds no lock. `seconds` exclude waiting; of a joint training they are the run's share.
    """
    held = []
    with contextlib.ExitStack() as locks:
        free = []
        for jobs in runs:
            try:
                locks.enter_context(store.lock(jobs[0].run_id).acquire(timeout=0))
                free.append(jobs)
            except Timeout:
                held.append(jobs)
        if free and not _make(free, store, emit):
            return
    for jobs in held:
        emit(_phase(jobs[0].run_id, "waiting for another process that makes this run"))
        with store.lock(jobs[0].run_id):
            _make([jobs], store, emit)


def _make(runs: Sequence[list[Job]], store: RunStore, emit: Emit) -> bool:
    """Make runs whose locks this process holds; False if SIGTERM came before all were made."""
    started = time.monotonic()
    stopped: dict[str, Exception | int] = {}  # by what, or at which step
    to_train: dict[str, Run] = {}
    for jobs in runs:
        run, run_id = jobs[0].run, jobs[0].run_id
        try:
            store.repair(run_id, lambda text: emit({"run": run_id, "warning": text}))  # noqa: B023, called at once
            if store.state(run_id) != "done":
                to_train[run_id] = run
        except OSError as error:
            stopped[run_id] = error
    if to_train:
        stopped |= _train(to_train, store, emit)
    share = (time.monotonic() - started) / len(runs)
    for jobs in runs:
        run_id, started = jobs[0].run_id, time.monotonic()
        if isinstance(why := stopped.get(run_id), int):
            store.forgive(run_id)
            emit({"run": run_id, "paused": why})
            continue
        try:
            if why is not None:
                raise why
            missing = [job for job in jobs if job.study and not store.measured(run_id, job.study, job.digest)]
            if missing:
                with backends.get(jobs[0].run.backend).threads(jobs[0].run):
                    _measure(missing, store, emit)
        except Exception as error:
            store.fail(run_id, traceback.format_exc())
            emit({"run": run_id, "error": in_words(error)})
        else:
            store.forgive(run_id)
            seconds = round(share + time.monotonic() - started, 3)
            made = {"trained": run_id in to_train, "measured": len(missing), "seconds": seconds}
            emit({"run": run_id, "done": True, **made})
    return not any(isinstance(why, int) for why in stopped.values())


def _train(runs: Mapping[str, Run], store: RunStore, emit: Emit) -> dict[str, Exception | int]:
    """Train runs by run_id, together if they are several; gives what made a run fail, or the step where it paused."""
    reported: dict[Run, float] = {}

    def report(run: Run, step: int, steps: int) -> None:
        if time.monotonic() - reported.get(run, -REPORT_EVERY) >= REPORT_EVERY or step == steps:
            resumes = resumed[ids[run]] and run not in reported
            reported[run] = time.monotonic()
            words = f"resumes from step {step}" if resumes else f"training, step {step} of {steps}"
            emit(_phase(ids[run], words, step / steps))

    ids = {run: run_id for run_id, run in runs.items()}
    stopped: dict[str, Exception | int] = {}
    try:
        from eltbench.training import loop as training

        for run_id, run in runs.items():
            store.begin(run, run_id)
        resumed = {run_id: (store.directory(run_id) / WEIGHTS).exists() for run_id in runs}
        started = time.monotonic()
        with _told_to_end(divided=any(run.devices > 1 for run in ids)) as told:
            trainees = training.fit_seeds({store.directory(run_id): run for run_id, run in runs.items()}, report, told)
        seconds = (time.monotonic() - started) / len(runs)
        for (run_id, run), trainee in zip(runs.items(), trainees, strict=True):
            if trainee.error is not None:
                stopped[run_id] = trainee.error
            elif told() and trainee.step < run.optimisation.steps:
                stopped[run_id] = trainee.step
            else:
                store.finish(run, run_id, seconds, resumed[run_id], seeds_together=len(runs))
    except Exception as error:
        return dict.fromkeys(runs, error)
    return stopped


@contextlib.contextmanager
def _told_to_end(*, divided: bool) -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM came, which does not end the process within this context; a divided run ignores this."""
    if divided or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    told: list[int] = []  # no event, whose lock a second signal could find taken by the first
    before = signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    try:
        yield lambda: bool(told)
    finally:
        # once told it says how it stands, though a process group and the sender both tell it
        signal.signal(signal.SIGTERM, signal.SIG_IGN if told else before)


def _measure(jobs: list[Job], store: RunStore, emit: Emit) -> None:
    """Measure and write; then raises RuntimeError if a part failed, which is not cached."""
    import pyarrow as pa

    from eltbench import studies
    from eltbench.evidence import results
    from eltbench.evidence.schema import part_schema
    from eltbench.training.model import load_model

    run, run_id = jobs[0].run, jobs[0].run_id
    model = load_model(store.directory(run_id), runs=store.root)
    failed: list[Exception] = []
    for job in jobs:
        assert job.study is not None
        emit(_phase(run_id, f"measuring for {job.study}"))
        study = studies.create(job.study)
        measured = study.measure(model, run, dict(job.settings))
        path, incomplete = (
            where(run_id, job.study, job.digest) for where in (store.measurement_path, store.incomplete_path)
        )
        for name, table in measured.tables.items():  # before the rows, whose presence means that all is there
            raw = pa.Table.from_pandas(table.assign(run_id=run_id), preserve_index=False)
            results.write_table(path.with_suffix(f".{name}.parquet"), raw)
        rows = results.stamp(measured.rows, run, run_id, job.digest, study.columns, _costs(model))
        results.write_rows(incomplete if measured.failed else path, rows, part_schema(study.columns))
        failed += measured.failed
        if not measured.failed:
            incomplete.unlink(missing_ok=True)
    if failed:  # now that all rows are there
        raise RuntimeError(f"a part of a measurement failed: {in_words(failed[0])}") from failed[0]


def _costs(model: Model) -> Callable[[int | None], dict[str, int]]:
    """The cost of a call by loops: the columns params, weight_bytes and macs of a row."""
    from eltbench import accounting

    network = model.parts.network
    fixed = {
        "params": sum(accounting.parameters(network).values()),
        "weight_bytes": accounting.weight_bytes(network, model.run.precision),
    }
    return lambda loops: fixed if loops is None else {**fixed, "macs": accounting.macs(network, loops)}


def _phase(run_id: str, words: str, fraction: float | None = None) -> dict[str, Any]:
    return {"run": run_id, "phase": words, "fraction": fraction}


def _jobs(asked: Mapping[str, Any]) -> list[Job]:
    run = run_from_dict(asked["run"])
    return [Job(run, **measurement) for measurement in asked["measurements"]] or [Job(run)]


if __name__ == "__main__":
    child.serve(lambda told, emit: work([_jobs(asked) for asked in told["make"]], RunStore(Path(told["store"])), emit))
