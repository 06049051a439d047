"""One run, or seeds trained together, in a process of its own: `python -m eltbench.execution.worker`.

A JSON line on stdin says what: {"allowed": what the sender allows, "store": folder of the run cache, "make":
[{"run": …, "measurements": [{"study": …, "version": …, "settings": {…}}, …]}, …]}. The sender keeps stdin open; when it
closes, however the sender died, this process ends at once. Events leave as JSON lines on stdout, each with "run", the
run's id: {"phase": "wait"}, {"phase": "resume", "step": s, "steps": n}, {"phase": "train", "step": s, "steps": n},
{"phase": "measure", "study": …}, {"warning": …}, and as each run's last {"done": true, "trained": …, "measured": …,
"seconds": …}, {"paused": step} or {"error": …}; an error without "run" is that of all runs that have not ended. The
exit code is 1 if there was an error, else 0.

SIGTERM ends this process: at once, but during the training of a run on one device, which it pauses. The step at work is
finished, a checkpoint saved, and nothing more begun.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import Timeout

from eltbench import backends
from eltbench.core.child import ORPHANED, end_with_sender, told
from eltbench.core.config import Run, run_from_dict
from eltbench.core.registry import allow_named
from eltbench.execution.store import WEIGHTS, RunStore
from eltbench.training.job import Job

if TYPE_CHECKING:
    from eltbench.training.model import Model

REPORT_EVERY = 0.5  # seconds between two events of one phase
Emit = Callable[[Mapping[str, Any]], None]


def work(runs: Sequence[list[Job]], store: RunStore, emit: Emit) -> None:
    """Train runs that differ in their seed alone and make the measurements that the jobs of each name.

    What is there is not made again. A run that another process holds is left to it and looked at when the others are
    made; while this waits, it holds none itself. The `seconds` of a run leave waiting out, and of a training together
    they hold the run's share.
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
        emit({"run": jobs[0].run_id, "phase": "wait"})
        with store.lock(jobs[0].run_id):
            _make([jobs], store, emit)


class Paused(Exception):  # noqa: N818, it is no error
    """A training that was told to end, and left the checkpoint of this step."""

    def __init__(self, step: int) -> None:
        super().__init__(f"paused at step {step}")
        self.step = step


def _make(runs: Sequence[list[Job]], store: RunStore, emit: Emit) -> bool:
    """What `work` does with runs whose locks this process holds; False where it was told to end before all was made."""
    started = time.monotonic()
    errors: dict[str, Exception] = {}
    to_train: dict[str, Run] = {}
    for jobs in runs:
        run, run_id = jobs[0].run, jobs[0].run_id
        try:
            store.repair(run_id, lambda text: emit({"run": run_id, "warning": text}))  # noqa: B023, called at once
            if store.state(run_id) != "done":
                to_train[run_id] = run
        except OSError as error:
            errors[run_id] = error
    if to_train:
        errors |= _train(to_train, store, emit)
    share = (time.monotonic() - started) / len(runs)
    for jobs in runs:
        run_id, started = jobs[0].run_id, time.monotonic()
        try:
            if run_id in errors:
                raise errors[run_id]
            missing = [job for job in jobs if job.study and not store.measured(run_id, job.study, job.digest)]
            if missing:
                with backends.get(jobs[0].run.backend).threads(jobs[0].run):
                    _measure(missing, store, emit)
        except Paused as paused:
            store.forgive(run_id)
            emit({"run": run_id, "paused": paused.step})
        except Exception as error:
            store.fail(run_id, traceback.format_exc())
            traceback.print_exc()
            emit({"run": run_id, "error": in_words(error)})
        else:
            store.forgive(run_id)
            seconds = round(share + time.monotonic() - started, 3)
            trained = run_id in to_train
            emit({"run": run_id, "done": True, "trained": trained, "measured": len(missing), "seconds": seconds})
    return not any(isinstance(error, Paused) for error in errors.values())


def _train(runs: Mapping[str, Run], store: RunStore, emit: Emit) -> dict[str, Exception]:
    """Train runs by run_id, together if they are several; gives what made a run fail."""
    reported: dict[Run, float] = {}

    def report(run: Run, step: int, steps: int) -> None:
        if time.monotonic() - reported.get(run, -REPORT_EVERY) >= REPORT_EVERY or step == steps:
            phase = "resume" if resumed[ids[run]] and run not in reported else "train"
            reported[run] = time.monotonic()
            emit({"run": ids[run], "phase": phase, "step": step, "steps": steps})

    ids = {run: run_id for run_id, run in runs.items()}
    errors: dict[str, Exception] = {}
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
                errors[run_id] = trainee.error
            elif told() and trainee.step < run.optimisation.steps:
                errors[run_id] = Paused(trainee.step)
            else:
                store.finish(run, run_id, seconds, resumed[run_id], seeds_together=len(runs))
    except Exception as error:
        return dict.fromkeys(runs, error)
    return errors


@contextlib.contextmanager
def _told_to_end(*, divided: bool) -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM came, which within this context ends nothing by itself; a divided run cannot hear it."""
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
    """Write what the jobs measure; raises RuntimeError, after that, where a part failed, which is not cached."""
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
        emit({"run": run_id, "phase": "measure", "study": job.study})
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
    """What a call of this model costs, by loops: the columns params, weight_bytes and macs of a row."""
    from eltbench import accounting

    network = model.parts.network
    fixed = {
        "params": sum(accounting.parameters(network).values()),
        "weight_bytes": accounting.weight_bytes(network, model.run.precision),
    }
    return lambda loops: fixed if loops is None else {**fixed, "macs": accounting.macs(network, loops)}


def _jobs(asked: Mapping[str, Any]) -> list[Job]:
    run = run_from_dict(asked["run"])
    return [Job(run, each["study"], each["settings"], version=each["version"]) for each in asked["measurements"]] or [
        Job(run)
    ]


def main() -> int:
    """Read what to make, make it, and say how it went; returns the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the sender hears Ctrl-C too, and ends this process
    events = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # what libraries print to stdout must not fall between the events
    failed = False

    def emit(event: Mapping[str, Any]) -> None:
        nonlocal failed
        failed |= "error" in event
        events.write(json.dumps(event) + "\n")

    line = told()
    if line is None:
        return ORPHANED
    end_with_sender()
    try:
        message = json.loads(line)
        allow_named(message["allowed"])
        work([_jobs(asked) for asked in message["make"]], RunStore(Path(message["store"])), emit)
    except Exception as error:
        traceback.print_exc()
        emit({"error": in_words(error)})
    return int(failed)


def in_words(error: Exception) -> str:
    """The kind and message of an error on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # torch takes a second to be taken down, for nothing: files are whole and locks are freed
