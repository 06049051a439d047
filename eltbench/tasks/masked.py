"""Masked generation: the network sees a grid with masked tokens and predicts them."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from eltbench.core.arrays import Array, namespace
from eltbench.core.validation import build
from eltbench.data.base import Clean, DataSpec
from eltbench.tasks import register, schedules
from eltbench.tasks.base import Batch, ExitOutput, Ops, Predict, Predictor, Task, check_sampling
from eltbench.tasks.guidance import drop_labels, guided


@dataclass(frozen=True)
class MaskedSampling:
    """Iterative decoding of MaskGIT (arXiv 2202.04200) with ELT's temperature (arXiv 2604.09168, section 5.1).

    Tokens are sampled at temperature + temperature_slope·(1 - (k+1)/K); ELT does not state its choice temperature,
    4.5 is MaskGIT's.
    """

    sampler: Literal["maskgit"] = "maskgit"
    steps: int = 8
    temperature: float = 0.5
    temperature_slope: float = 0.8
    choice_temperature: float = 4.5
    guidance_scale: float = 1.0  # s of u + s(c - u), on logits

    def __post_init__(self) -> None:
        check_sampling(self)
        if self.sampler != "maskgit":
            raise ValueError(f"sampling: sampler must be 'maskgit', given {self.sampler!r}")
        if self.temperature <= 0 or self.temperature + self.temperature_slope <= 0:
            raise ValueError("sampling: the temperature must stay above 0 at every step")


@register("masked", version=1)
@dataclass(frozen=True)
class Masked(Task):
    """Cross-entropy at masked positions under the cosine masking schedule (arXiv 2202.04200, 2604.09168 section 3).

    MaskGIT's label smoothing and minimum masking rate, on which ELT is silent, are options that default to none.
    """

    data_kind = "tokens"
    timed = False

    minimum_mask_rate: float = 0.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        for name in ("minimum_mask_rate", "label_smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"masked: {name} must be in [0, 1], given {getattr(self, name)}")

    def corrupt(self, clean: Clean, spec: DataSpec, rng: np.random.Generator, label_dropout: float = 0.0) -> Batch:
        level = rng.random(len(clean.labels))
        labels = drop_labels(clean.labels, spec.classes, label_dropout, rng)
        return self._at(clean, spec, level, labels, rng)

    def heldout(self, clean: Clean, spec: DataSpec, rng: np.random.Generator, draws: int) -> list[Batch]:
        if clean.hidden is not None:  # the world says what is hidden: further draws would repeat the first
            draws = 1
        levels = schedules.spread_levels(len(clean.labels), draws, rng)
        return [self._at(clean, spec, level, clean.labels, rng) for level in levels]

    def _at(
        self, clean: Clean, spec: DataSpec, level: np.ndarray, labels: np.ndarray, rng: np.random.Generator
    ) -> Batch:
        if clean.hidden is None:
            count = schedules.masked_count(level, spec.tokens, self.minimum_mask_rate)
            rank = rng.random(clean.values.shape).argsort(axis=1).argsort(axis=1)
            masked = rank < count[:, None]
        else:
            masked = clean.hidden
        inputs = np.where(masked, spec.vocabulary, clean.values).astype(np.int32)
        return Batch(inputs, labels, clean.context, None, clean.values, masked.astype(np.float32))

    def loss(self, output: ExitOutput, batch: Batch, ops: Ops) -> Array:
        return _masked_mean(self._cross_entropy(output, batch, ops), batch.weight)

    def distillation(self, student: ExitOutput, teacher: ExitOutput, batch: Batch, ops: Ops) -> Array:
        """Soft cross-entropy with the teacher's probabilities over the whole vocabulary, at masked positions."""
        xp = namespace(student.prediction)
        probabilities = xp.exp(ops.log_softmax(teacher.prediction))  # (B, T, V)
        soft = -xp.sum(probabilities * ops.log_softmax(student.prediction), axis=-1)  # (B, T)
        return _masked_mean(soft, batch.weight)

    def errors(self, output: ExitOutput, batch: Batch, ops: Ops) -> Array:
        xp = namespace(output.prediction)
        cross_entropy = self._cross_entropy(output, batch, ops)  # (B, T)
        hidden = xp.sum(batch.weight, axis=1)  # (B,); an item that hides nothing has no error and no weight
        return xp.sum(batch.weight * cross_entropy, axis=1) / xp.where(hidden > 0, hidden, xp.ones_like(hidden))

    def item_weights(self, batch: Batch) -> Array:
        return namespace(batch.weight).sum(batch.weight, axis=1)

    def _cross_entropy(self, output: ExitOutput, batch: Batch, ops: Ops) -> Array:
        hard = ops.cross_entropy(output.prediction, batch.target)
        if not self.label_smoothing:
            return hard
        xp = namespace(output.prediction)
        uniform = -xp.mean(ops.log_softmax(output.prediction), axis=-1)
        return (1 - self.label_smoothing) * hard + self.label_smoothing * uniform

    def clean(self, output: ExitOutput, batch: Batch) -> Array:
        """A prediction is one of the tokens themselves."""
        return output.prediction

    def noisiness(self, batch: Batch) -> Array:
        """The share of masked positions."""
        return namespace(batch.weight).mean(batch.weight, axis=1)

    def trivial(self, training: Clean, spec: DataSpec) -> dict[str, Predictor]:
        """All tokens alike, and how often each occurs in the training items where tokens are hidden: anywhere, and by
        position, every count raised by one.
        """
        hidden = np.ones(training.values.shape, bool) if training.hidden is None else training.hidden
        place = np.broadcast_to(np.arange(spec.tokens) * spec.vocabulary, hidden.shape)  # in a table of (T, V)
        seen = np.bincount((place + training.values)[hidden], minlength=spec.tokens * spec.vocabulary)
        counts = seen.reshape(spec.tokens, spec.vocabulary)
        tables = {"uniform": np.zeros_like(counts), "unigram": counts.sum(axis=0), "unigram by position": counts}
        logits = {name: np.log(table + 1).astype(np.float32) for name, table in tables.items()}

        def constant(table: np.ndarray) -> Predictor:
            return lambda batch: np.broadcast_to(table, (*batch.inputs.shape, spec.vocabulary))

        return {name: constant(table) for name, table in logits.items()}

    def sampling(self, **options: Any) -> MaskedSampling:
        return build(MaskedSampling, options)

    def sample(
        self,
        predict: Predict,
        spec: DataSpec,
        labels: np.ndarray,
        loops: int,
        rng: np.random.Generator,
        ops: Ops,
        settings: MaskedSampling | None = None,
        given: Clean | None = None,
    ) -> Generator[Array, int | None, None]:
        settings = settings or MaskedSampling()
        predict = guided(predict, settings.guidance_scale, spec.classes, ops)
        shape = (len(labels), spec.tokens)
        start = np.full(shape, spec.vocabulary, np.int32)
        if given is not None and given.hidden is not None:
            start = np.where(given.hidden, spec.vocabulary, given.values).astype(np.int32)
        context = None if given is None or given.context is None else ops.asarray(given.context)
        device_labels = ops.asarray(np.asarray(labels, np.int32))
        unknown = initially = (start == spec.vocabulary).sum(axis=1)
        tokens = ops.asarray(start)
        for step in range(settings.steps):
            remaining = 1 - (step + 1) / settings.steps
            logits = predict(tokens, device_labels, None, context, loops)
            unknown = schedules.still_masked(unknown, initially, step, settings.steps)
            tokens = reveal(
                tokens,
                logits,
                ops.asarray(gumbel(rng, (*shape, spec.vocabulary))),
                ops.asarray(gumbel(rng, shape)),
                settings.temperature + settings.temperature_slope * remaining,
                settings.choice_temperature * remaining,
                ops.asarray(unknown[:, None].astype(np.int32)),
                ops,
            )
            loops = (yield tokens) or loops


def gumbel(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Standard Gumbel noise in float32: the draws of `rng.gumbel`, which takes four times as long, one by one.

    -ln(-ln(1 - u)) of uniform u in float64, rounded. One u in 2^53 is 0; numpy draws that one again, here it is
    infinite, as its limit is.
    """
    noise = np.subtract(1.0, rng.random(shape))
    with np.errstate(divide="ignore"):
        for _ in range(2):
            np.negative(np.log(noise, out=noise), out=noise)
    return noise.astype(np.float32)


def reveal(
    tokens: Array,
    logits: Array,
    token_noise: Array,
    choice_noise: Array,
    temperature: float,
    choice_temperature: float,
    still_masked: Array | int,
    ops: Ops,
) -> Array:
    """One decoding step: sample every masked token, then mask the `still_masked` least confident again.

    tokens (B, T) with `vocabulary` at masked positions, logits (B, T, V), Gumbel noise (B, T, V) and (B, T);
    still_masked is one number, or one for each item (B, 1).
    Confidence is ln p(token) + choice_temperature·Gumbel; known tokens have infinite confidence, and the number to mask
    again is counted over all positions, so they stay (arXiv 2202.04200).
    """
    xp = namespace(logits)
    vocabulary = logits.shape[-1]
    masked = tokens == vocabulary
    sampled = xp.argmax(logits / temperature + token_noise, axis=-1)  # (B, T): a draw from softmax(logits/temperature)
    confidence = -ops.cross_entropy(logits, sampled) + choice_temperature * choice_noise
    confidence = xp.where(masked, confidence, xp.full_like(confidence, math.inf))
    rank = xp.argsort(xp.argsort(confidence, axis=-1, stable=True), axis=-1, stable=True)
    filled = xp.where(masked, xp.astype(sampled, tokens.dtype), tokens)
    return xp.where(rank < still_masked, xp.full_like(tokens, vocabulary), filled)


def _masked_mean(values: Array, weight: Array) -> Array:
    xp = namespace(values)
    return xp.sum(weight * values) / xp.sum(weight)
