"""One run in a process of its own: `python -m eltbench.worker`, told what to do by one JSON line on stdin.

The line: {"run": …, "runs": folder of the run cache, "measurements": [{"study": …, "version": …, "settings": {…}}, …]}.
The sender keeps stdin open; when it closes, however the sender died, this process ends at once. Events leave as JSON
lines on stdout: {"phase": "wait"}, {"phase": "train", "step": s, "steps": n}, {"phase": "measure", "study": …},
{"warning": …}, and last {"done": true, "trained": …, "measured": …, "seconds": …} (exit code 0) or {"error": …} (1).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import AcquireReturnProxy, BaseFileLock, Timeout

from eltbench.config import Run, run_from_dict
from eltbench.runs import WEIGHTS, Job, RunStore

if TYPE_CHECKING:
    from eltbench.model import Model

ORPHANED = 3  # exit code when the sender is gone
REPORT_EVERY = 0.5  # seconds between two events of one phase
Emit = Callable[[Mapping[str, Any]], None]


def thread_environment(threads: int) -> dict[str, str]:
    """Environment that holds the numerical libraries of a new process to `threads`; they read it when loaded."""
    names = ("OMP", "MKL", "OPENBLAS", "VECLIB_MAXIMUM", "NUMEXPR")
    variables = {f"{name}_NUM_THREADS": str(threads) for name in names}
    return {**variables, "NPROC": str(threads)}  # XLA's pool of CPU threads


def work(jobs: list[Job], store: RunStore, emit: Emit) -> dict[str, Any]:
    """Train one run and make the measurements that `jobs`, all of this run, name; what is there is not made again.

    Returns whether it trained, how many measurements it made, and the seconds it took, waiting for the lock left out.
    """
    run, run_id = jobs[0].run, jobs[0].run_id
    with _locked(store.lock(run_id), emit):
        started = time.monotonic()
        try:
            store.repair(run_id, lambda text: emit({"warning": text}))
            trained = _train(run, run_id, store, emit)
            missing = [job for job in jobs if job.study and not store.measured(run_id, job.study, job.digest)]
            if missing:
                _measure(missing, store, emit)
        except Exception:
            store.fail(run_id, traceback.format_exc())
            raise
        store.forgive(run_id)
        seconds = round(time.monotonic() - started, 3)
    return {"trained": trained, "measured": len(missing), "seconds": seconds}


def _locked(lock: BaseFileLock, emit: Emit) -> AcquireReturnProxy:
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        emit({"phase": "wait"})
        return lock.acquire()


def _train(run: Run, run_id: str, store: RunStore, emit: Emit) -> bool:
    if store.state(run_id) == "done":
        return False
    from eltbench import training

    directory = store.directory(run_id)
    store.begin(run, run_id)
    resumed, started, reported = (directory / WEIGHTS).exists(), time.monotonic(), 0.0

    def report(step: int, steps: int) -> None:
        nonlocal reported
        if time.monotonic() - reported >= REPORT_EVERY or step == steps:
            reported = time.monotonic()
            emit({"phase": "train", "step": step, "steps": steps})

    training.fit(run, directory, report)
    store.finish(run, run_id, time.monotonic() - started, resumed)
    return True


def _measure(jobs: list[Job], store: RunStore, emit: Emit) -> None:
    import pyarrow as pa

    from eltbench import results, studies
    from eltbench.model import load_model
    from eltbench.schema import part_schema

    run, run_id = jobs[0].run, jobs[0].run_id
    model = load_model(store.directory(run_id), runs=store.root)
    for job in jobs:
        assert job.study is not None
        emit({"phase": "measure", "study": job.study})
        study = studies.create(job.study)
        measured = study.measure(model, run, dict(job.settings))
        path = store.measurement_path(run_id, job.study, job.digest)
        for name, table in measured.tables.items():  # before the rows, whose presence means that all is there
            raw = pa.Table.from_pandas(table.assign(run_id=run_id), preserve_index=False)
            results.write_table(path.with_suffix(f".{name}.parquet"), raw)
        rows = results.stamp(measured.rows, run, run_id, job.digest, study.columns, _costs(model))
        results.write_rows(path, rows, part_schema(study.columns))


def _costs(model: Model) -> Callable[[int | None], dict[str, int]]:
    """What a call of this model costs, by loops: the columns params, weight_bytes and macs of a row."""
    from eltbench import accounting

    shape = (model.run.architecture, model.trainer.depth, model.spec, model.task.timed)
    fixed = {
        "params": sum(accounting.parameters(*shape).values()),
        "weight_bytes": accounting.weight_bytes(*shape, model.run.precision),
    }
    return lambda loops: fixed if loops is None else {**fixed, "macs": accounting.macs(*shape, loops)}


def _end_with_sender() -> None:
    """Leave at the end of stdin; runs in a thread, and skips every clean-up, which atomic files do not need."""
    while os.read(0, 4096):
        pass
    os._exit(ORPHANED)


def _jobs(message: Mapping[str, Any]) -> list[Job]:
    run = run_from_dict(message["run"])
    asked = message["measurements"]
    return [Job(run, each["study"], each["settings"], version=each["version"]) for each in asked] or [Job(run)]


def main() -> int:
    """Read the job, do it, and say how it went; returns the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the sender hears Ctrl-C too, and ends this process
    events = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # what libraries print to stdout must not fall between the events

    def emit(event: Mapping[str, Any]) -> None:
        events.write(json.dumps(event) + "\n")

    line = b""
    while not line.endswith(b"\n"):  # unbuffered, so that the watching thread sees all that follows
        byte = os.read(0, 1)
        if not byte:
            return ORPHANED
        line += byte
    threading.Thread(target=_end_with_sender, daemon=True).start()
    try:
        message = json.loads(line)
        emit({"done": True, **work(_jobs(message), RunStore(Path(message["runs"])), emit)})
    except Exception as error:
        emit({"error": " ".join(f"{type(error).__name__}: {error}".split())})
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # torch takes a second to be taken down, for nothing: files are whole and locks are freed
