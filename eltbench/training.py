"""The only training loop: batches → engine.step → log → checkpoint."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from eltbench import accounting, atomic, backends, data, tasks, trainers
from eltbench.backends.base import Engine, Report
from eltbench.backends.checkpoint import snapshot_name
from eltbench.config import Optimisation, Run
from eltbench.data.base import Dataset
from eltbench.streams import stream
from eltbench.tasks.base import Task
from eltbench.trainers.base import Trainer

CHECKPOINT = "checkpoint.safetensors"


class DivergedError(ArithmeticError):
    """A loss or gradient that is no longer finite; `step` is where."""

    def __init__(self, step: int, name: str, value: float) -> None:
        super().__init__(f"{name} became {value} at step {step}; try a smaller learning_rate or gradient_clip")
        self.step = step


@dataclass(frozen=True)
class Parts:
    """The objects that a run's names stand for."""

    trainer: Trainer
    task: Task
    dataset: Dataset


def parts(run: Run) -> Parts:
    """Look the run's names up and refuse what does not fit together, before anything is trained (ValueError)."""
    trainer = trainers.create(run.trainer, **dict(run.trainer_options))
    task = tasks.create(run.task, **dict(run.task_options))
    dataset = data.create(run.dataset, **dict(run.dataset_options))
    backends.registry.check(run.backend)
    trainer.check(run.architecture)
    accounting.token_grid(run.architecture, trainer.depth, dataset.spec)
    if task.data_kind != dataset.spec.kind:
        raise ValueError(
            f"task {run.task!r} works on {task.data_kind} data, dataset {run.dataset!r} gives {dataset.spec.kind}"
        )
    return Parts(trainer, task, dataset)


def build_engine(run: Run, made: Parts | None = None) -> Engine:
    """The run's engine with fresh weights."""
    made = made or parts(run)
    return backends.get(run.backend)(run, made.dataset.spec, made.trainer, made.task)


def learning_rate(optimisation: Optimisation, step: int) -> float:
    """Linear warm-up, then constant or half a cosine down to zero."""
    warmup = min(1.0, (step + 1) / max(1, optimisation.warmup_steps))
    if optimisation.schedule == "constant":
        return optimisation.learning_rate * warmup
    done = max(0, step - optimisation.warmup_steps) / max(1, optimisation.steps - optimisation.warmup_steps)
    return optimisation.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def fit(run: Run, directory: Path, report: Report | None = None) -> Engine:
    """Train a run to its end in `directory`, resuming from the checkpoint there; returns the trained engine.

    What the averaged weights were on the way is kept as the run's snapshots, whose absence begins the training anew.
    Raises DivergedError when a loss is not finite, ValueError for an impossible configuration or a damaged checkpoint,
    and RuntimeError that names the like where one of several processes raised it (see `Engine.launch`).
    """
    made = parts(run)
    if run.devices > 1 and backends.get(run.backend).launch(run, partial(fit, run, directory), report):
        trained = build_engine(replace(run, devices=1), made)
        trained.load(directory)
        return trained
    spec, optimisation = made.dataset.spec, run.optimisation
    engine = build_engine(run, made)
    directory.mkdir(parents=True, exist_ok=True)
    start = engine.load(directory) if (directory / CHECKPOINT).exists() else 0
    snapshots = optimisation.snapshots
    if not all((directory / snapshot_name(step)).exists() for step in snapshots if step <= start):
        engine, start = build_engine(run, made), 0  # what is gone is only made by training again
    log = Log(directory / "log.jsonl", start, keeps=engine.leads)
    for step in range(start, optimisation.steps):
        clean = made.dataset.batch(stream(run.dataset, run.seed, "batch", step), optimisation.batch_size)
        corruption = stream(run.dataset, run.seed, "corruption", step)
        batch = made.task.corrupt(clean, spec, corruption, optimisation.label_dropout)
        exits = made.trainer.exits(run.architecture, stream(run.dataset, run.seed, "exits", step))
        progress = step / max(1, optimisation.steps - 1)
        terms = engine.step(batch, exits, progress, learning_rate(optimisation, step))
        log.add(step, exits, terms)
        done = step + 1
        if done % optimisation.log_every == 0 or done == optimisation.steps:
            log.flush(engine)
            if report:
                report(done, optimisation.steps)
        if done in snapshots:  # before the checkpoint, so that none lacks a snapshot of its past
            log.flush(engine)
            if engine.leads:
                engine.save_snapshot(directory, done)
        if done % optimisation.checkpoint_every == 0 or done == optimisation.steps:
            log.flush(engine)
            if engine.leads:
                engine.save(directory, done)
    return engine


class Log:
    """Loss terms by step as JSON lines; values stay on the device until `flush`, so that no step waits for them.

    One that does not keep the lines checks the values all the same.
    """

    def __init__(self, path: Path, start: int, *, keeps: bool = True) -> None:
        self.path = path if keeps else Path(os.devnull)
        self.pending: list[tuple[int, tuple[int, ...], dict[str, Any]]] = []
        if not keeps:
            return
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] < start]
        atomic.write_text(path, "".join(line + "\n" for line in kept))

    def add(self, step: int, exits: tuple[int, ...], terms: dict[str, Any]) -> None:
        self.pending.append((step, exits, terms))

    def flush(self, engine: Engine) -> None:
        """Write what is pending; the first value that is not finite raises DivergedError with its step."""
        with self.path.open("a") as file:
            for step, exits, terms in self.pending:
                values = {name: float(np.asarray(engine.numpy(term))) for name, term in terms.items()}
                for name, value in values.items():
                    if not math.isfinite(value):
                        raise DivergedError(step, name, value)
                file.write(json.dumps({"step": step, "exits": exits, **values}) + "\n")
        self.pending.clear()
