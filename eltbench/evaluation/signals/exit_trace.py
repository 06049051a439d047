"""What one pass leaves at its exits, and what several signals need of it, computed once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property, wraps
from typing import Any, Literal, NamedTuple, TypeVar

import array_api_compat
import numpy as np

from eltbench.core.arrays import Array, namespace
from eltbench.tasks.base import Batch, ExitOutput, Task
from eltbench.training.model import Model

TINY = 1e-37  # added to probabilities so that 0·ln 0 is 0 and not NaN; lost in rounding above 1e-30
HALTING = {"universal": ("ponder", "unhalted"), "recursive": ("halting",)}  # fields of a depth scheme's own

T = TypeVar("T")


class Distribution(NamedTuple):
    """Probabilities and their logarithms, (M, V)."""

    p: Array
    log_p: Array


class Update(NamedTuple):
    """What a loop did to the states: the change (M, D) and its norm (M,)."""

    change: Array
    norm: Array


class Spread(NamedTuple):
    """The mean of the exits so far (M, V), and the sum of their squared distances from it (M,)."""

    mean: Array
    squares: Array


def _kept(exits: int = 0) -> Callable[[Callable[[Trace, int], T]], Callable[[Trace, int], T]]:
    """Compute what a trace says of an exit once; what is large is kept for the last few `exits` alone (0: for all)."""

    def of_exit(make: Callable[[Trace, int], T]) -> Callable[[Trace, int], T]:
        @wraps(make)
        def value(trace: Trace, exit: int) -> T:
            key = make.__name__, exit
            if key not in trace._made:
                trace._made[key] = make(trace, exit)
                if exits:
                    trace._made.pop((make.__name__, exit - exits), None)
            return trace._made[key]

        return value

    return of_exit


class Trace:
    """The exits of one pass over B items, in the order of their loops; `append` adds the next one as it is read.

    Its arrays have M rows: the masked tokens in the order of the items, or all values of continuous predictions (all
    tokens for states). What is derived from an exit is computed at its first use; what is large is kept only while the
    next exit may need it, so read exits in order.

    kind: "tokens" (predictions are logits (B, T, V)) or "continuous" (predictions are x_0, (B, H, W, C)), of the clean
    item (`estimated`). hidden: (B, T) bool on the host, the masked tokens, at least one an item; None for all. level:
    (B,) on the host, growing with the corruption. initial: the state (B, T, D) before the first loop, where the first
    exit is loop 1. numpy: brings an array to the host. All other arrays are of one library, which does the computing.
    """

    def __init__(
        self,
        kind: Literal["tokens", "continuous"],
        *,
        hidden: np.ndarray | None = None,
        level: np.ndarray | None = None,
        initial: Array = None,
        numpy: Callable[[Array], np.ndarray] = np.asarray,
    ) -> None:
        if hidden is not None and not hidden.any(axis=1).all():
            empty = int(np.flatnonzero(~hidden.any(axis=1))[0])
            raise ValueError(f"trace: every item must mask a token, which is then predicted; item {empty} masks none")
        self.kind, self.hidden, self.level, self.numpy = kind, hidden, level, numpy
        self.items = 0  # B, known at the first exit
        self.xp: Any = None  # the Array API functions of the arrays' library, known likewise
        self.loops: list[int] = []
        self.outputs: list[ExitOutput] = []  # prediction (M, V) or (B·H·W·C, 1), state (M, D), the others (M,)
        self.initial = None if initial is None else self._rows(initial)
        self._made: dict[tuple[str, int], Any] = {}

    def __len__(self) -> int:
        return len(self.loops)

    def append(self, loops: int, output: ExitOutput) -> None:
        """Add the exit after `loops` loops, which must lie beyond those that are there (ValueError)."""
        if self.loops and loops <= self.loops[-1]:
            raise ValueError(f"trace: exits come in the order of their loops, given {loops} after {self.loops[-1]}")
        prediction, *others = output
        self.items = prediction.shape[0]
        self.xp = namespace(prediction)
        rows = self.xp.reshape(prediction, (-1, 1)) if self.kind == "continuous" else self._rows(prediction)
        self.loops.append(loops)
        self.outputs.append(ExitOutput(rows, *(None if field is None else self._rows(field) for field in others)))

    def select(self, kept: np.ndarray) -> Trace:
        """The trace of the items where `kept` (B,) is true, with all that is computed already."""
        part = object.__new__(Trace)
        part.kind, part.numpy, part.xp, part.loops = self.kind, self.numpy, self.xp, list(self.loops)
        part.hidden, part.level = (None if each is None else each[kept] for each in (self.hidden, self.level))
        part.items = int(kept.sum())
        places: dict[int, Array] = {}  # of the rows that stay, by how many there were
        per_item = None if self.hidden is None else self._counts[0]

        def of(value: Any) -> Any:
            if isinstance(value, tuple):
                return type(value)(*map(of, value))
            if value is None:
                return None
            if (count := value.shape[0]) not in places:
                rows = np.repeat(kept, count // self.items if per_item is None else per_item)
                places[count] = self._places(rows, value)
            return self.xp.take(value, places[count], axis=0)

        part.initial, part.outputs = of(self.initial), [of(output) for output in self.outputs]
        part._made = {key: of(made) for key, made in self._made.items()}
        return part

    def over_items(self, rows: np.ndarray, worst: bool = False) -> np.ndarray:
        """Values of rows (…, M) on the host as one per item (…, B): the mean over an item's rows, or the largest."""
        if self.hidden is None or rows.shape[-1] == self.items:
            split = rows.reshape(*rows.shape[:-1], self.items, -1)
            return split.max(axis=-1) if worst else split.mean(axis=-1)
        counts, starts = self._counts
        if worst:
            return np.maximum.reduceat(rows, starts, axis=-1)
        return np.add.reduceat(rows, starts, axis=-1, dtype=np.float64) / counts

    @cached_property
    def _counts(self) -> tuple[np.ndarray, np.ndarray]:
        """How many rows each item has, and where they begin (B,)."""
        assert self.hidden is not None
        counts = self.hidden.sum(axis=1)
        return counts, np.cumsum(counts) - counts

    # Of the predictions

    @_kept(exits=2)
    def distribution(self, exit: int) -> Distribution:
        """The softmax of the logits at an exit."""
        xp, logits = self.xp, self.outputs[exit].prediction
        log_p = logits - xp.max(logits, axis=-1, keepdims=True)
        p = xp.exp(log_p)
        total = xp.sum(p, axis=-1, keepdims=True)
        p /= total  # in place here and below: memory asked for anew costs more than the arithmetic
        p += TINY
        log_p -= xp.log(total)
        return Distribution(p, log_p)

    @_kept()
    def entropy(self, exit: int) -> Array:
        """H(p) = -Σ_v p ln p (M,), in nats."""
        p, log_p = self.distribution(exit)
        return -self.xp.sum(p * log_p, axis=-1)

    @_kept(exits=2)
    def floored(self, exit: int) -> Distribution:
        """The distribution with all below a tenth of its largest set to 1/V, renormalised (min-p)."""
        xp, (p, log_p) = self.xp, self.distribution(exit)
        share = 1 / p.shape[-1]
        kept = xp.ceil(p - 0.1 * xp.max(p, axis=-1, keepdims=True))  # 1 above, else 0: a fifth of comparing
        q = p - share
        q *= kept
        q += share  # p where kept, else 1/V
        log_q = log_p - math.log(share)
        log_q *= kept
        total = xp.sum(q, axis=-1, keepdims=True)
        q /= total
        log_q += math.log(share) - xp.log(total)
        return Distribution(q, log_q)

    @_kept()
    def choice(self, exit: int) -> Array:
        """The most likely value (M,)."""
        return self.xp.argmax(self.outputs[exit].prediction, axis=-1)

    @_kept()
    def changed(self, exit: int) -> Array:
        """1 where the most likely value is another than at the previous exit, else 0 (M,), floating."""
        return self.xp.astype(self.choice(exit) != self.choice(exit - 1), self.outputs[exit].prediction.dtype)

    @_kept()
    def flips(self, exit: int) -> Array:
        """How often the most likely value has changed up to this exit (M,)."""
        return self.changed(1) if exit == 1 else self.flips(exit - 1) + self.changed(exit)

    @_kept()
    def unsettled(self, exit: int) -> Array:
        """Minus the number of exits since the most likely value changed (M,) (code of arXiv 2502.05171)."""
        if exit == 0:
            return -self.xp.zeros_like(self.outputs[0].prediction[:, 0])
        return (self.unsettled(exit - 1) - 1) * (1 - self.changed(exit))

    @_kept(exits=2)
    def spread(self, exit: int) -> Spread:
        """How far the exits up to this one lie apart, by Welford's recursion: probabilities, or values of x_0."""
        value = self.distribution(exit).p if self.kind == "tokens" else self.outputs[exit].prediction
        if exit == 0:
            return Spread(value, self.xp.zeros_like(value[:, 0]))
        mean, squares = self.spread(exit - 1)
        step = value - mean
        squares = squares + self._norm(step) ** 2 * (exit / (exit + 1))
        step /= exit + 1
        step += mean
        return Spread(step, squares)

    # Of the states; -1 is the state before the first loop

    def state(self, exit: int) -> Array:
        """The state (M, D) at an exit by position."""
        return self.initial if exit < 0 else self.outputs[exit].state

    @_kept()
    def state_norm(self, exit: int) -> Array:
        """‖h‖ (M,)."""
        return self._norm(self.state(exit))

    @_kept(exits=2)
    def update(self, exit: int) -> Update:
        """Δ = h - h_previous, with its norm."""
        change = self.state(exit) - self.state(exit - 1)
        return Update(change, self._norm(change))

    def _norm(self, vectors: Array) -> Array:
        return self.xp.linalg.vector_norm(vectors, axis=-1)

    def _rows(self, values: Array) -> Array:
        """Values of tokens (B, T, …) as rows (M, …), masked tokens only."""
        xp = namespace(values)
        flat = xp.reshape(values, (values.shape[0] * values.shape[1], *values.shape[2:]))
        if self.hidden is None:
            return flat
        return xp.take(flat, self._places(self.hidden, values), axis=0)

    @staticmethod
    def _places(chosen: np.ndarray, beside: Array) -> Array:
        """The positions at which a host array is true, on the device of another array."""
        return namespace(beside).asarray(np.flatnonzero(chosen), device=array_api_compat.device(beside))


def observed_fields(depth: str) -> tuple[str, ...]:
    """What is read of the exits of a depth scheme where all signals of one pass are wanted."""
    return ("prediction", "state", *HALTING.get(depth, ()))


def trace(model: Model, batch: Batch, exits: Sequence[int]) -> Trace:
    """The trace of a host batch at these exits (loop counts), from one pass; raises ValueError for impossible ones.

    Where the first exit is loop 1 the state before it is known too, so that what loop 1 did counts.
    """
    exits = model.exits(exits)
    engine, depth = model.engine, model.trainer.depth
    uploaded = engine.upload(batch)
    outputs = engine.predict(uploaded, exits, observed_fields(depth))
    initial = None
    if exits[0] == 1 and depth != "unique":
        embedded = engine.recurrence(uploaded).initial  # (B, P + T, D), with a prefix token P that exits leave out
        initial = embedded[:, embedded.shape[1] - outputs[0].state.shape[1] :]
    kind = model.spec.kind
    hidden = batch.weight > 0 if kind == "tokens" else None
    level = np.asarray(model.task.noisiness(batch))
    found = Trace(kind, hidden=hidden, level=level, initial=initial, numpy=engine.numpy)
    for loops, output in zip(exits, outputs, strict=True):
        found.append(loops, estimated(model.task, output, uploaded))
    return found


def estimated(task: Task, output: ExitOutput, batch: Batch) -> ExitOutput:
    """What a network gave for a batch of the same library, its prediction as one of the clean item (`Task.clean`)."""
    return output._replace(prediction=task.clean(output, batch))
