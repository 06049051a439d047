"""The only training loop: batches → engine.step → log → checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from eltbench import backends, data, tasks, trainers
from eltbench.accounting import NetworkSpec
from eltbench.backends.base import Engine, Report
from eltbench.backends.checkpoint import snapshot_name
from eltbench.backends.dropout import draw_dropped
from eltbench.core.arrays import Array
from eltbench.core.config import Optimisation, Run
from eltbench.core.streams import stream
from eltbench.data.base import Dataset
from eltbench.data.form import check_clean, check_splits
from eltbench.data.held_back import WithValidation
from eltbench.tasks.base import Batch, Task
from eltbench.trainers.base import Trainer
from eltbench.training.log import DivergedError, Log
from eltbench.training.record import WEIGHTS

SeedsReport = Callable[[Run, int, int], None]
"""report(run, steps done, steps in all)"""


@dataclass(frozen=True)
class Parts:
    """The objects that a run's names stand for."""

    trainer: Trainer
    task: Task
    dataset: Dataset
    network: NetworkSpec


def parts(run: Run) -> Parts:
    """Look the run's names up and refuse what does not fit together, before anything is trained (ValueError)."""
    trainer = trainers.create(run.trainer, **dict(run.trainer_options))
    task = tasks.create(run.task, **dict(run.task_options))
    dataset = data.create(run.dataset, **dict(run.dataset_options))
    dataset = WithValidation(dataset) if run.validation else dataset
    backends.registry.check(run.backend)
    trainer.check(run.architecture)
    network = NetworkSpec(run.architecture, trainer.depth, dataset.spec, task.timed, trainer.recursion)
    if task.data_kind != dataset.spec.kind:
        raise ValueError(
            f"task {run.task!r} works on {task.data_kind} data, dataset {run.dataset!r} gives {dataset.spec.kind}"
        )
    if task.data_kind not in trainer.data_kinds:
        raise ValueError(
            f"trainer {run.trainer!r} has a loss for {' and '.join(trainer.data_kinds)} alone, and task {run.task!r} "
            f"works on {task.data_kind} data: give a task of the former, or another trainer"
        )
    return Parts(trainer, task, dataset, network)


def build_engine(run: Run, made: Parts | None = None) -> Engine:
    """The run's engine with fresh weights."""
    made = made or parts(run)
    return backends.get(run.backend)(run, made.network, made.trainer, made.task)


def learning_rate(optimisation: Optimisation, step: int) -> float:
    """Linear warm-up, then constant or half a cosine down to zero."""
    warmup = min(1.0, (step + 1) / max(1, optimisation.warmup_steps))
    if optimisation.schedule == "constant":
        return optimisation.learning_rate * warmup
    done = max(0, step - optimisation.warmup_steps) / max(1, optimisation.steps - optimisation.warmup_steps)
    return optimisation.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


@dataclass
class Trainee:
    """A run in training and how it stands: the steps it has taken, or what made it fail."""

    run: Run
    directory: Path
    engine: Engine
    step: int = 0
    error: Exception | None = None


def fit(run: Run, directory: Path, report: Report | None = None) -> Engine:
    """Train a run to its end in `directory`, resuming from the checkpoint there; returns the trained engine.

    A missing snapshot begins the training anew. Raises DivergedError when a loss is not finite, ValueError for an
    impossible configuration or a damaged checkpoint, and RuntimeError where one of several processes failed.
    """
    (trainee,) = fit_seeds({directory: run}, None if report is None else lambda _, *done: report(*done))
    if trainee.error is not None:
        raise trainee.error
    return trainee.engine


def fit_seeds(
    runs: Mapping[Path, Run], report: SeedsReport | None = None, stop: Callable[[], bool] = lambda: False
) -> list[Trainee]:
    """Train runs that differ in their seed alone, by directory, together as one program; one run, as `fit` does.

    Each leaves the files that it would leave by itself. A run that diverges, or whose checkpoint is damaged, fails
    alone: its error stands in what is returned. Those that are behind go first, until they reach the others. Raises
    ValueError for runs that cannot be trained together.

    report: called for a resumed run, then every `log_every` steps. stop: called after every step; once true, a
    checkpoint is saved and training ends. A run on several processes is not stopped.
    """
    (directory, run), *others = runs.items()
    made = parts(run)
    if others:
        check_vectorised(run)
        if odd := [other for _, other in others if replace(other, seed=run.seed) != run]:
            raise ValueError(f"runs that are trained together differ in their seed alone, given {run} and {odd[0]}")
    if run.devices > 1:
        launch = backends.get(run.backend).launch
        if launch(run, partial(fit, run, directory), None if report is None else partial(report, run)):
            return [_begin(replace(run, devices=1), directory, made)]
    check_splits(made.dataset)
    with backends.get(run.backend).threads(run):
        trainees = [_begin(run, directory, made) for directory, run in runs.items()]
        steps = run.optimisation.steps
        for trainee in trainees:
            if report and 0 < trainee.step < steps:
                report(trainee.run, trainee.step, steps)
        while going := [trainee for trainee in trainees if trainee.error is None and trainee.step < steps]:
            if stop():
                break
            behind = min(trainee.step for trainee in going)
            until = min((trainee.step for trainee in going if trainee.step > behind), default=steps)
            _train([trainee for trainee in going if trainee.step == behind], made, until, report, stop)
    return trainees


def check_vectorised(run: Run) -> None:
    """Refuse (ValueError) a run that cannot be trained with other seeds as one program."""
    known = backends.vectorised.names()
    if run.backend not in known:
        raise ValueError(
            f"backend {run.backend!r} trains every seed in a program of its own; backends that vectorise seeds: "
            f"{', '.join(known)}"
        )
    if run.devices > 1:
        raise ValueError(f"vectorised seeds share one device, given devices = {run.devices}; leave one of the two out")


def draw(run: Run, made: Parts, step: int) -> tuple[Batch, tuple[int, ...]]:
    """The host batch of a run's step and the exits read at it, from the streams of the run's seed."""
    optimisation = run.optimisation
    clean = made.dataset.batch(stream(run.dataset, run.seed, "batch", step), optimisation.batch_size)
    check_clean(clean, made.dataset.spec, f"dataset {run.dataset!r}, batch of step {step}", optimisation.batch_size)
    corruption = stream(run.dataset, run.seed, "corruption", step)
    batch = made.task.corrupt(clean, made.dataset.spec, corruption, optimisation.label_dropout)
    dropped = draw_dropped(made.network, optimisation.batch_size, stream(run.dataset, run.seed, "dropout", step))
    exits = made.trainer.exits(run.architecture, stream(run.dataset, run.seed, "exits", step))
    return batch._replace(dropped=dropped), exits


def _begin(run: Run, directory: Path, made: Parts) -> Trainee:
    """The run as its directory leaves it: fresh, or at the step of its checkpoint."""
    trainee = Trainee(run, directory, build_engine(run, made))
    directory.mkdir(parents=True, exist_ok=True)
    if (directory / WEIGHTS).exists():
        try:
            trainee.step = trainee.engine.load(directory)
        except ValueError as error:
            trainee.error = error
    past = [step for step in run.optimisation.snapshots if step <= trainee.step]
    if not all((directory / snapshot_name(step)).exists() for step in past):
        trainee.engine, trainee.step = build_engine(run, made), 0  # what is gone is only made by training again
    return trainee


def _train(
    trainees: Sequence[Trainee], made: Parts, until: int, report: SeedsReport | None, stop: Callable[[], bool]
) -> None:
    """The only training loop: take trainees that stand at one step to step `until`, or to where `stop` says so."""
    start, run = trainees[0].step, trainees[0].run
    gather = Alone if len(trainees) == 1 else backends.vectorised.get(run.backend)
    together = gather([trainee.engine for trainee in trainees])
    logs = [Log(each.directory / "log.jsonl", start, place, each.engine.leads) for place, each in enumerate(trainees)]
    for step in range(start, until):
        batches, exits = zip(*(draw(trainee.run, made, step) for trainee in trainees), strict=True)
        progress = step / max(1, run.optimisation.steps - 1)
        terms = together.step(batches, exits, progress, learning_rate(run.optimisation, step))
        until = step + 1 if stop() else until
        for place, (trainee, log) in enumerate(zip(trainees, logs, strict=True)):
            if trainee.error is None:
                log.add(step, exits[place], terms)
                try:
                    _keep(trainee, log, partial(together.engine, place), step + 1, until, report)
                except DivergedError as error:
                    trainee.error = error  # the others go on beside it
        if all(trainee.error is not None for trainee in trainees):
            return
        if step + 1 == until:
            break
    for place, trainee in enumerate(trainees):
        trainee.engine, trainee.step = together.engine(place), until


def _keep(
    trainee: Trainee, log: Log, engine: Callable[[], Engine], done: int, until: int, report: SeedsReport | None
) -> None:
    """Log, report and save what is due after `done` steps; `engine` gives the trainee's as it stands now."""
    directory, optimisation, leads = trainee.directory, trainee.run.optimisation, trainee.engine.leads
    last, snapshot = done == until, done in optimisation.snapshots
    logs, saves = last or done % optimisation.log_every == 0, last or done % optimisation.checkpoint_every == 0
    if logs or snapshot or saves:
        log.flush(trainee.engine)
    if logs and report:
        report(trainee.run, done, optimisation.steps)
    if snapshot and leads:  # before the checkpoint, so that none lacks a snapshot of its past
        engine().save_snapshot(directory, done)
    if saves and leads:
        engine().save(directory, done)


class Alone:
    """The engine of one run, in the form of those of several seeds (see `eltbench.backends.base.Seeds`)."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        (self._engine,) = engines

    def step(
        self, batches: Sequence[Batch], exits: Sequence[tuple[int, ...]], progress: float, learning_rate: float
    ) -> dict[str, Array]:
        (batch,), (its_exits,) = batches, exits
        return self._engine.step(batch, its_exits, progress, learning_rate)

    def engine(self, place: int) -> Engine:
        return self._engine
