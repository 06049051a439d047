"""Run caches for tests: folders as training and measurement leave them, without training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from safetensors.numpy import save_file

from eltbench.core.config import Architecture, Run
from eltbench.evidence import results
from eltbench.evidence.schema import part_schema
from eltbench.execution.store import WEIGHTS, RunStore
from eltbench.training.job import Job

RUN = Run("elt", "diffusion", "digits", architecture=Architecture(unique_layers=1, max_loops=2, width=8, heads=2))
STUDY = "extrapolation"


def partial(store: RunStore, run: Run = RUN, fill: float = 1.0) -> Job:
    """A run that was begun and not finished."""
    job = Job(run, STUDY, {"draws": 1})
    directory = store.directory(job.run_id)
    directory.mkdir(parents=True, exist_ok=True)
    store.begin(run, job.run_id)
    save_file({"weights": np.full((8, 8), fill, np.float32)}, directory / WEIGHTS)
    (directory / "checkpoint.json").write_text('{"step": 1000}')
    return job


def done(store: RunStore, run: Run = RUN, fill: float = 1.0, loss: float = 0.5, call_seconds: float = 0.25) -> Job:
    """A finished run with one measurement: a loss, a time, and a raw table."""
    job = partial(store, run, fill)
    store.finish(run, job.run_id, seconds=8.0, resumed=False)
    values = {"heldout_loss": loss, "call_seconds": call_seconds}
    measured = [{"loops": 1, "split": "heldout", "metric": metric, "value": value} for metric, value in values.items()]
    rows = results.stamp(measured, run, job.run_id, job.digest, {})
    path = store.measurement_path(job.run_id, STUDY, job.digest)
    results.write_rows(path, rows, part_schema())
    raw = results.pa.table({"item": [0, 1], "loss": [loss, loss], "run_id": [job.run_id] * 2})
    results.write_table(path.with_suffix(".items.parquet"), raw)
    return job


def seeded(seed: int) -> Run:
    """The run of another seed."""
    return replace(RUN, seed=seed)
