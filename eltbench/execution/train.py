"""`eltbench.train`: from Python what `eltbench train` is on the command line."""

from __future__ import annotations

from pathlib import Path

from eltbench import backends
from eltbench.core.config import Run
from eltbench.execution import torchrun
from eltbench.execution.progress import Reporter
from eltbench.execution.store import RunStore
from eltbench.execution.sweep import Outcome, sweep
from eltbench.training.job import Job
from eltbench.training.loop import parts
from eltbench.training.model import Model, load_model, runs_root


def train(run: Run, *, runs: str | Path | None = None, progress: bool = True) -> Model:
    """Train a run, or find it in the run cache, and give its model: the same run as that of `eltbench train`.

    It is trained in a process of its own. runs: where trained runs are kept (default: $ELTBENCH_RUNS, else the user's
    cache folder). progress: told on stderr. Ctrl-C saves a checkpoint, and the repeated call goes on from there.

    Raises ValueError for a run that cannot be, before anything is trained, and RuntimeError, with the reason, for one
    that fails; its traceback is then in failure.txt of the run's folder.
    """
    if torchrun.launched():
        raise ValueError("train starts its own processes, also for several devices: call it without torchrun")
    store = RunStore(runs_root(runs))
    outcome = make(run, store, None if progress else Reporter())
    for run_id, reason in outcome.failed.items():
        raise RuntimeError(f"run {run_id} failed: {reason}; more in {store.directory(run_id) / 'failure.txt'}")
    return load_model(store.directory(Job(run).run_id), runs=store.root)


def make(run: Run, store: RunStore, progress: Reporter | None = None) -> Outcome:
    """Make one run; raises ValueError for one that cannot be before a process is started."""
    parts(run)
    if run.device != "cpu" or run.devices > 1:
        backends.get(run.backend).check_device(run.device, run.devices)
    return sweep([Job(run)], store, progress=progress)
