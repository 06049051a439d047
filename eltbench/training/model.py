"""A trained model: predictions at any exits and samples at any loop count."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from eltbench import accounting
from eltbench.backends import check_exits, checkpoint
from eltbench.backends.base import Engine
from eltbench.backends.dropout import draw_dropped
from eltbench.core import atomic
from eltbench.core.arrays import Array
from eltbench.core.atomic import expanded
from eltbench.core.config import Run, run_from_dict
from eltbench.core.streams import stream
from eltbench.core.validation import whole
from eltbench.data import form
from eltbench.data.base import Clean, Dataset, DataSpec
from eltbench.tasks.base import Batch
from eltbench.tasks.guidance import check_guidance
from eltbench.training.identity import run_id
from eltbench.training.loop import Parts, build_engine, parts
from eltbench.training.record import CHECKPOINT, WEIGHTS, file_damage, read_record

SHOWN = 20  # steps of snapshots that a message lists


class Model:
    """A run with its trained (averaged) weights, and the folder they come from where there is one."""

    def __init__(self, run: Run, engine: Engine, made: Parts, directory: Path | None = None) -> None:
        self.run, self.engine, self.parts, self.directory = run, engine, made, directory
        self.trainer, self.task, self.dataset = made.trainer, made.task, made.dataset

    def __repr__(self) -> str:
        weights = sum(accounting.parameters(self.parts.network).values())
        return f"Model({self.run.about}: run {self.run_id}, {weights:,} weights, {self.run.optimisation.steps:,} steps)"

    def _repr_html_(self) -> str:
        from eltbench.core import tables

        return tables.html(repr(self), [("folder", str(self.directory))] if self.directory else [])

    @property
    def spec(self) -> DataSpec:
        """The form of this model's data."""
        return self.dataset.spec

    @property
    def run_id(self) -> str:
        """The identity of the run that trained it."""
        return run_id(self.run)

    def exits(self, exits: Sequence[int]) -> tuple[int, ...]:
        """The exits, checked against this network (ValueError)."""
        return check_exits(exits, deepest=self.parts.network.last_exit)

    def at_step(self, step: int) -> Model:
        """This model as it was after `step` training steps, on the same device; ValueError as `load_model` raises."""
        if self.directory is None:
            raise ValueError("at_step: this model was not loaded from a run's folder")
        return load_model(self.directory, step=step, device=self.engine.run.device)

    def companion(self, run_id: str) -> Model:
        """The model of another run in the same folder of runs, on the same device; ValueError as `load_model`."""
        if self.directory is None:
            raise ValueError("companion: this model was not loaded from a run's folder")
        return load_model(run_id, runs=self.directory.parent, device=self.engine.run.device)

    def on(self, dataset: Dataset) -> Model:
        """The same averaged weights on data of the same form, but for the grid; no weight depends on that.

        Rotary positions are made for larger grids than the trained one. The run stays that of the training, and so does
        `run_id`; `at_step` and `companion` lead back to its data. Raises ValueError for data of another form.
        """
        ours, given = self.spec, dataset.spec
        if replace(given, grid=ours.grid) != ours:
            raise ValueError(f"on: a model of data of the form {ours} can take another grid alone, given {given}")
        made = replace(self.parts, dataset=dataset, network=replace(self.parts.network, data=given))
        engine = build_engine(self.engine.run, made)
        engine.restore({"average": self.engine.held("average")}, None)
        return Model(self.run, engine, made, self.directory)

    def predict(
        self,
        inputs: np.ndarray,
        labels: np.ndarray | None = None,
        log_snr: np.ndarray | float | None = None,
        context: np.ndarray | None = None,
        *,
        exits: Sequence[int],
        dropout_passes: int = 0,
        seed: int = 0,
    ) -> list[np.ndarray]:
        """One prediction per exit, from one pass: clean values (B, H, W, C), or logits (B, T, vocabulary).

        inputs: noisy values (B, H, W, C) or tokens (B, T) with `spec.vocabulary` where masked. labels: (B,), the null
        label by default. log_snr: (B,) or one number; diffusion needs it. dropout_passes: if above 0, as many passes
        with dropout left on, drawn from `seed` (Monte-Carlo dropout, arXiv 1506.02142), as the first axis of each
        prediction, (S, B, …). Raises ValueError for impossible exits, and for passes of a network without dropout.
        """
        exits = self.exits(exits)
        if not whole(dropout_passes) or dropout_passes < 0:
            raise ValueError(f"predict: dropout_passes must be 0 or more, a whole number, given {dropout_passes!r}")
        if dropout_passes and not self.run.architecture.dropout:
            raise ValueError(
                f"predict: this network was trained without dropout, so {dropout_passes} passes would be the same one; "
                "train it with architecture.dropout above 0"
            )
        batch = self.engine.upload(self.batch(inputs, labels, log_snr, context))
        passes = []
        for place in range(dropout_passes or 1):
            if dropout_passes:
                rng = stream(self.run.dataset, seed, "dropout passes", place)
                dropped = draw_dropped(self.parts.network, len(inputs), rng)
                batch = batch._replace(dropped=self.engine.ops.asarray(dropped))  # type: ignore[arg-type]
            passes.append([self.engine.numpy(output.prediction) for output in self.engine.predict(batch, exits)])
        return [np.stack(members) for members in zip(*passes, strict=True)] if dropout_passes else passes[0]

    def batch(
        self,
        inputs: np.ndarray,
        labels: np.ndarray | None = None,
        log_snr: np.ndarray | float | None = None,
        context: np.ndarray | None = None,
    ) -> Batch:
        """What `predict` is given as a host batch, completed and checked (ValueError) but for a target and weights."""
        if self.task.timed and log_snr is None:
            raise ValueError(f"predict: task {self.run.task!r} needs log_snr, the noise level of the inputs")
        if self.spec.context_vocabulary and context is None:
            raise ValueError(f"predict: dataset {self.run.dataset!r} needs context tokens")
        spec, inputs = self.spec, form.inputs(inputs, self.spec, "predict")
        items = len(inputs)
        labels = form.labels(np.full(items, spec.classes) if labels is None else labels, spec, "predict", items)
        context = None if context is None else form.context(context, spec, "predict", items)
        level = None if log_snr is None else form.noise_levels(log_snr, "predict", items)
        return Batch(inputs, labels, context, level, None, None)

    def trajectory(
        self, labels: np.ndarray, loops: int, *, seed: int = 0, given: Clean | None = None, **settings: Any
    ) -> Generator[np.ndarray, int | None, None]:
        """The state after each sampling step; send an integer to change the loops from the next step on.

        See `Task.sampling` for the settings. labels: (B,), the null label `spec.classes` for a sample of no class.
        Raises ValueError for impossible loops, labels, given items or settings, before any step.
        """
        (loops,) = self.exits([loops])
        labels = form.labels(labels, self.spec, "sample")
        form.check_given(given, self.spec, "sample", len(labels))
        asked = self.task.sampling(**settings)
        check_guidance(asked.guidance_scale, self.spec.classes, self.run.optimisation.label_dropout)

        def predict(inputs: Array, labels: Array, log_snr: Array, context: Array, loops: int) -> Array:
            return self.engine.predict(Batch(inputs, labels, context, log_snr, None, None), (loops,))[0].prediction

        rng = stream(self.run.dataset, seed, "sampling")
        states = self.task.sample(predict, self.spec, labels, loops, rng, self.engine.ops, asked, given)
        return self._on_host(states)

    def _on_host(self, states: Generator[Array, int | None, None]) -> Generator[np.ndarray, int | None, None]:
        sent = None
        with contextlib.suppress(StopIteration):
            while True:
                sent = yield self.engine.numpy(states.send(sent))

    def sample(
        self, labels: np.ndarray, loops: int, *, seed: int = 0, given: Clean | None = None, **settings: Any
    ) -> np.ndarray:
        """One item per label at this loop count; the same seed draws the same noise at every loop count."""
        return deque(self.trajectory(labels, loops, seed=seed, given=given, **settings), maxlen=1).pop()


def runs_root(root: str | Path | None = None) -> Path:
    """Where trained runs are kept: the given folder, else $ELTBENCH_RUNS, else the user's cache, or ValueError."""
    if given := root or os.environ.get("ELTBENCH_RUNS"):
        return expanded(given)
    try:
        return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "eltbench" / "runs"
    except ValueError:
        raise ValueError("this user has no home folder: give --runs a folder, or set $ELTBENCH_RUNS") from None


def load_model(
    run: str | Path, *, runs: str | Path | None = None, device: str | None = None, step: int | None = None
) -> Model:
    """The model of a run, named by its id (or a beginning of it that fits one run) or by its folder.

    device: overrides where it is loaded. step: as it was after so many training steps, of which the run kept a
    snapshot (`Optimisation.snapshot_every`). Raises ValueError for a run that is not there or not trained to its end, a
    step without a snapshot, and a damaged file.
    """
    directory = expanded(run)
    if not (directory / WEIGHTS).exists():
        root = runs_root(runs)
        found = sorted(path.parent for path in root.glob(f"*/{WEIGHTS}") if path.parent.name.startswith(str(run)))
        if len(found) != 1:
            problem = "no trained run" if not found else f"{len(found)} runs"
            raise ValueError(f"{problem} named {str(run)!r} in {root}")
        directory = found[0]
    trained = _trained(directory)
    snapshots, steps = trained.optimisation.snapshots, trained.optimisation.steps
    if step is not None and step != steps and step not in snapshots:
        kept = ", ".join(map(str, (*snapshots[:SHOWN], *(["…"] if len(snapshots) > SHOWN else []), steps)))
        raise ValueError(f"run {directory.name} kept no weights of step {step}; it has those of steps {kept}")
    snapshot = None if step == steps else step
    _check_sums(directory, snapshot)
    made = parts(trained)
    held = sum(accounting.parameters(made.network).values())
    checkpoint.check_size(directory, held)  # before memory is taken for it
    engine = build_engine(replace(trained, device=device or trained.device, devices=1), made)
    if (reached := engine.load(directory)) < steps:
        raise ValueError(
            f"run {directory.name} is trained to step {reached} of {steps}; repeat the command that began it"
        )
    if snapshot is not None:
        engine.load_snapshot(directory, snapshot)
    return Model(trained, engine, made, directory)


def _trained(directory: Path) -> Run:
    """The run whose checkpoint is here, as the checkpoint says; ValueError for a damaged description."""
    description = directory / "checkpoint.json"
    try:
        return run_from_dict(atomic.read_json(description)["run"])
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"checkpoint {description} is damaged or not eltbench's: {error}") from error


def _check_sums(directory: Path, snapshot: int | None) -> None:
    """Raise ValueError where done.json is here and what is to be loaded is not what it describes."""
    record = directory / "done.json"
    if not os.path.lexists(record):
        return
    names = [*CHECKPOINT, *([] if snapshot is None else [checkpoint.snapshot_name(snapshot)])]
    try:
        damaged = file_damage(directory, read_record(record), names)
    except ValueError as error:
        raise ValueError(f"{record} {error}") from None
    if damaged is not None:
        name, problem = damaged
        raise ValueError(f"checkpoint {directory / name} {problem}; eltbench runs verify --repair sets it aside")
