"""What a task is: how items are corrupted, how a prediction is judged, and how samples are drawn.

What touches the network's outputs is written against the Array API and the backend's `Ops`. Corruption and random draws
are made on the host in NumPy, so that two backends see the same numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from eltbench.core.arrays import Array, namespace
from eltbench.core.validation import check_numbers, whole
from eltbench.data.base import Clean, DataSpec

MOST_STEPS = 100_000  # of a sampler; more is a slip, and would run for days


class Batch(NamedTuple):
    """What one network call is given and judged by; arrays of NumPy on the host, of the backend inside a step.

    inputs: (B, H, W, C) noisy values or (B, T) tokens with masks. labels: (B,), the null label where dropped.
    context: (B, T) or None. log_snr: (B,) or None. target: clean values, shaped like `inputs`.
    weight: (B,) loss weights (diffusion), or (B, T) with 1 at masked positions. dropped: what dropout leaves out
    (`eltbench.backends.dropout`), or None.
    """

    inputs: Array
    labels: Array
    context: Array | None
    log_snr: Array | None
    target: Array
    weight: Array
    dropped: Array | None = None

    @property
    def given(self) -> tuple[Array, Array, Array | None, Array | None]:
        """What the network sees: inputs, labels, context, log_snr."""
        return self[:4]

    def select(self, index: Any) -> Batch:
        """The items at `index` (a slice or an array of positions), every field alike."""
        return Batch._make(None if field is None else field[index] for field in self)


class ExitOutput(NamedTuple):
    """What the network gives at one exit; fields that were not requested are None.

    prediction: (B, H, W, C), or logits (B, T, vocabulary). state: (B, T, width), after that loop. At universal depth
    ponder (B, T), loops spent plus remainder, and unhalted (B, T), the probability not to have halted by that loop. At
    recursive depth state (B, T, 2·width), answer and latent, and halting (B, T), the logit that the item is right as a
    whole, the same at every token.
    """

    prediction: Array = None
    state: Array = None
    ponder: Array = None
    unhalted: Array = None
    halting: Array = None


class Ops(Protocol):
    """What the Array API standard lacks or a fused kernel does better; each backend brings one."""

    def cross_entropy(self, logits: Array, targets: Array) -> Array:
        """-ln p(target): logits (..., V), integer targets (...) -> (...)."""

    def log_softmax(self, logits: Array) -> Array:
        """Over the last axis."""

    def stop_gradient(self, array: Array) -> Array:
        """The same values, constant to differentiation."""

    def asarray(self, array: np.ndarray) -> Array:
        """A host array as an array of the backend, on its device."""


class NumpyOps:
    """The `Ops` of NumPy, for predictors without a network."""

    def cross_entropy(self, logits: Array, targets: Array) -> Array:
        return -np.take_along_axis(self.log_softmax(logits), np.asarray(targets)[..., None], axis=-1)[..., 0]

    def log_softmax(self, logits: Array) -> Array:
        from scipy import special  # half a second to load, which the processes that train do without

        return special.log_softmax(logits, axis=-1)

    def stop_gradient(self, array: Array) -> Array:
        return array

    def asarray(self, array: np.ndarray) -> Array:
        return np.array(array)


Predictor = Callable[[Batch], np.ndarray]
"""From a host batch to a prediction as `ExitOutput` holds it, without a network."""
Predict = Callable[..., Array]
"""predict(inputs, labels, log_snr, context, loops) -> prediction, on arrays of the backend."""


def check_sampling(settings: Any) -> None:
    """Refuse (ValueError) sampling settings with numbers that are none, or a number of steps out of range."""
    check_numbers(type(settings), vars(settings), "sampling")
    if not whole(settings.steps) or settings.steps < 1:
        raise ValueError(f"sampling: steps must be at least 1, given {settings.steps!r}")
    if settings.steps > MOST_STEPS:
        raise ValueError(f"sampling: a sampler takes at most {MOST_STEPS:,} steps, given {settings.steps:,}")


class Task(ABC):
    """What one network call predicts; dataclass fields are options and part of a run's identity."""

    name: ClassVar[str]
    version: ClassVar[int]
    data_kind: ClassVar[str]  # the DataSpec.kind this task works on
    timed: ClassVar[bool]  # whether the network takes log_snr

    @abstractmethod
    def corrupt(self, clean: Clean, spec: DataSpec, rng: np.random.Generator, label_dropout: float = 0.0) -> Batch:
        """The network's input and its target, drawn on the host in float32."""

    @abstractmethod
    def heldout(self, clean: Clean, spec: DataSpec, rng: np.random.Generator, draws: int) -> list[Batch]:
        """`draws` corruptions of every item at corruption levels spread evenly over the training distribution."""

    @abstractmethod
    def loss(self, output: ExitOutput, batch: Batch, ops: Ops) -> Array:
        """The ground-truth loss GT(F, y), a scalar."""

    @abstractmethod
    def distillation(self, student: ExitOutput, teacher: ExitOutput, batch: Batch, ops: Ops) -> Array:
        """dist(student, teacher), a scalar; the caller stops the teacher's gradient."""

    @abstractmethod
    def errors(self, output: ExitOutput, batch: Batch, ops: Ops) -> Array:
        """The ground-truth loss of each item (B,); averaged with `item_weights` they give `loss`."""

    @abstractmethod
    def item_weights(self, batch: Batch) -> Array:
        """How much each item counts in `loss` (B,)."""

    @abstractmethod
    def clean(self, output: ExitOutput, batch: Batch) -> Array:
        """The estimate of the clean item, whatever the network predicts: values (B, H, W, C), or logits (B, T, V).

        Signals, errors of items and diagnostics look at this alone. Of `batch` the inputs, labels, context and log_snr
        are known.
        """

    def right(self, output: ExitOutput, batch: Batch) -> Array:
        """Whether the likeliest token is the right one wherever an item hides one (B,); of tokens alone."""
        xp = namespace(batch.weight)
        guess = xp.argmax(self.clean(output, batch), axis=-1)  # (B, T)
        return xp.all((guess == batch.target) | (batch.weight == 0), axis=1)

    @abstractmethod
    def noisiness(self, batch: Batch) -> Array:
        """How far each item was corrupted (B,), growing with the noise; only the order means something."""

    def trivial(self, training: Clean, spec: DataSpec) -> dict[str, Predictor]:
        """Predictors that a trained network must beat, by name, of the training items or the input alone."""
        return {}

    @abstractmethod
    def sampling(self, **options: Any) -> Any:
        """This task's sampling settings, a frozen dataclass; unknown options raise ValueError.

        Among its fields are `sampler` (a name), `steps` and `guidance_scale`, which are columns of the rows.
        """

    @abstractmethod
    def sample(
        self,
        predict: Predict,
        spec: DataSpec,
        labels: np.ndarray,
        loops: int,
        rng: np.random.Generator,
        ops: Ops,
        settings: Any = None,
        given: Clean | None = None,
    ) -> Generator[Array, int | None, None]:
        """Draw one item per label, yielding the state after each sampling step; the last state is the sample.

        Send an integer into the generator to change `loops` from the next step on; stop iterating to stop early.
        `given` carries context tokens and known values where the world has them.
        """
