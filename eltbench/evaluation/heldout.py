"""Held-out loss at every exit, on corruptions that are the same for every model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from eltbench.core.streams import stream
from eltbench.data.base import Clean
from eltbench.data.form import check_clean
from eltbench.tasks.base import Batch, ExitOutput, NumpyOps, Task
from eltbench.training.loop import Parts
from eltbench.training.model import Model

Items = TypeVar("Items", Batch, Clean)
BATCH = 512  # items a network call; fixed, so that a result does not depend on the machine's memory


@dataclass(frozen=True)
class Heldout:
    """What `evaluate` measured at E exits."""

    exits: tuple[int, ...]
    errors: np.ndarray  # (E, draws, items), the loss of every item
    weights: np.ndarray  # (draws, items), how much each counts
    correct: np.ndarray | None = None  # (E, S), the share of hidden tokens predicted right in each stratum, if any
    strata: tuple[int, ...] = ()  # (S,), their names
    seen: tuple[int, ...] = ()  # (S,), hidden tokens in each

    @property
    def losses(self) -> np.ndarray:
        """The held-out loss at each exit (E,), weighted as the training loss is."""
        return (self.errors * self.weights).sum(axis=(1, 2)) / self.weights.sum()


def evaluate(model: Model, exits: Sequence[int], draws: int) -> Heldout:
    """Held-out losses of all exits, from one pass per batch.

    Every held-out item is corrupted `draws` times, at levels spread over the training distribution; levels, noise and
    masks come from one stream of the dataset, whatever the model, its seed or its backend. Raises ValueError for
    impossible exits, and for items that have not the form of the data.
    """
    exits = model.exits(exits)
    clean = model.dataset.heldout()
    check_clean(clean, model.spec, f"dataset {model.run.dataset!r}, held-out items")
    batches = model.task.heldout(clean, model.spec, stream(model.run.dataset, 0, "heldout"), draws)
    strata = model.dataset.strata(clean)
    names = np.unique([] if strata is None else strata)  # (S,)
    engine, task = model.engine, model.task
    errors, weights, hits, seen = [], [], [], []
    for start, piece in pieces(batches):
        uploaded = engine.upload(piece)
        outputs = engine.predict(uploaded, exits)
        errors.append(np.stack([engine.numpy(task.errors(out, uploaded, engine.ops)) for out in outputs]))  # (E, B)
        weights.append(engine.numpy(task.item_weights(uploaded)))
        if strata is not None:
            where = np.where(piece.weight > 0, strata[start : start + len(piece.labels)], -1)
            within = where == names[:, None, None]  # (S, B, T)
            guesses = [engine.numpy(task.clean(out, uploaded)).argmax(-1) for out in outputs]
            hits.append([(within & (guess == piece.target)).sum(axis=(1, 2)) for guess in guesses])
            seen.append(within.sum(axis=(1, 2)))
    shape = len(batches), len(clean.labels)
    losses = np.concatenate(errors, axis=1).astype(np.float64).reshape(len(exits), *shape)
    counted = np.concatenate(weights).astype(np.float64).reshape(shape)
    if strata is None:
        return Heldout(exits, losses, counted)
    counts = np.sum(seen, axis=0)  # (S,)
    present = counts > 0  # a stratum without hidden tokens has nothing to predict
    correct = np.sum(hits, axis=0)[:, present] / counts[present]
    return Heldout(exits, losses, counted, correct, *(tuple(of[present].tolist()) for of in (names, counts)))


class Trivial(NamedTuple):
    """A predictor without a network on the held-out items: its loss as `evaluate` weighs it, and its mean error.

    The error is that of `per_sample`, of the clean estimate: squared, or in nats a hidden token.
    """

    name: str
    loss: float
    error: float


def trivial(made: Parts, dataset: str, draws: int) -> list[Trivial]:
    """What the task's trivial predictors come to on the corruptions that `evaluate` gives every model of `dataset`."""
    task, spec, ops = made.task, made.dataset.spec, NumpyOps()
    found = []
    if predictors := task.trivial(made.dataset.training(), spec):
        batches = task.heldout(made.dataset.heldout(), spec, stream(dataset, 0, "heldout"), draws)
        for name, predict in predictors.items():
            outputs = [(piece, ExitOutput(predict(piece))) for _, piece in pieces(batches)]
            parts = [
                (task.errors(output, piece, ops), task.item_weights(piece), _clean_error(task, output, piece))
                for piece, output in outputs
            ]
            errors, weights, means = (np.concatenate(of).astype(np.float64) for of in zip(*parts, strict=True))
            found.append(Trivial(name, float((errors * weights).sum() / weights.sum()), float(means.mean())))
    return found


def _clean_error(task: Task, output: ExitOutput, batch: Batch) -> np.ndarray:
    """The mean error (B,) of the clean estimate."""
    clean = task.clean(output, batch)
    if task.data_kind == "continuous":
        return ((clean - batch.target) ** 2).reshape(len(clean), -1).mean(axis=1)
    return (NumpyOps().cross_entropy(clean, batch.target) * batch.weight).sum(axis=1) / batch.weight.sum(axis=1)


def pieces(batches: Sequence[Items]) -> Iterator[tuple[int, Items]]:
    """The network calls of some batches, each with the place of its first item in its batch."""
    for batch in batches:
        for start in range(0, len(batch.labels), BATCH):
            yield start, batch.select(slice(start, start + BATCH))
