"""One run trained by the processes that torchrun started, where a sweep would start its own.

Each of them calls `train`; the first keeps the run's files, as the worker of a sweep does.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from contextlib import ExitStack

from filelock import Timeout

from eltbench.core.config import Run
from eltbench.core.durations import duration
from eltbench.execution.progress import reporter
from eltbench.execution.store import WEIGHTS, RunStore
from eltbench.training import loop as training
from eltbench.training.job import Job


def launched() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def train(run: Run, store: RunStore) -> int:
    """Train the run, unless it is there, together with the other processes; the first prints its id.

    Returns the exit code. Raises ValueError for a run that is not torchrun's to train, one that another command is
    making, and processes that do not see the same run cache.
    """
    if run.backend != "torch":
        raise ValueError(
            f"backend {run.backend!r} divides a batch within one process: call eltbench without torchrun, which starts "
            "the processes of backend 'torch'"
        )
    from eltbench.backends.torch import parallel

    job = Job(run)
    weights = store.directory(job.run_id) / WEIGHTS
    with parallel.joined(run) as first, ExitStack() as held:
        if first:
            try:
                held.enter_context(store.lock(job.run_id).acquire(timeout=0))
            except Timeout:
                raise ValueError(f"another process is making run {job.run_id}: wait for its end") from None
            store.repair(job.run_id, lambda text: print(f"warning: {text}", file=sys.stderr))
        seen = parallel.seen_by_all(lambda: (store.state(job.run_id), weights.exists()))
        if len(set(seen)) > 1:
            raise ValueError(f"the processes see different files in {store.root}: give --runs a folder that all share")
        state, resumed = seen[0]
        if state != "done":
            try:
                _train(job, store, first, resumed)
            except Exception as error:
                if first:
                    store.fail(job.run_id, traceback.format_exc())
                print(f"failed: {type(error).__name__}: {error}", file=sys.stderr)
                return 1
    if first:
        print(job.run_id)
    return 0


def _train(job: Job, store: RunStore, first: bool, resumed: bool) -> None:
    run, run_id, directory = job.run, job.run_id, store.directory(job.run_id)
    if not first:
        training.fit(run, directory)
        return
    store.begin(run, run_id)
    display, started = reporter(), time.monotonic()

    def report(step: int, steps: int) -> None:
        display.phase(run_id, job.name, f"training, step {step} of {steps}", step / steps)

    display.begin([job.name], 0)
    try:
        training.fit(run, directory, report)
        seconds = time.monotonic() - started
        store.finish(run, run_id, seconds, resumed)
        display.finished(run_id, f"[1/1] {job.name}: {duration(seconds)}")
    finally:
        display.end()
