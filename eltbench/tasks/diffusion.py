"""Diffusion: the network sees a noisy item and predicts the clean one."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from eltbench.core.arrays import Array, namespace
from eltbench.core.config import added
from eltbench.core.validation import build
from eltbench.data.base import Clean, DataSpec
from eltbench.tasks import register, schedules
from eltbench.tasks.base import Batch, ExitOutput, Ops, Predict, Predictor, Task, check_sampling
from eltbench.tasks.guidance import drop_labels, guided


@dataclass(frozen=True)
class DiffusionSampling:
    """How samples are drawn; the paper uses 512 ancestral steps with guidance 3.0 (its convention is not stated)."""

    steps: int = 16
    sampler: Literal["ddim", "ddpm"] = "ddim"
    eta: float = 0.0  # ddim: 0 is deterministic, 1 equals ddpm with gamma = 0
    gamma: float = 0.0  # ddpm: variance low^(1-γ)·high^γ
    guidance_scale: float = 1.0  # s of u + s(c - u)
    clip: bool = True  # the estimate of x_0 to [-1, 1], after guidance
    ends: Literal["sample", "estimate"] = added("sample")  # at the log-SNR of t = 0, or in the last estimate of x_0

    def __post_init__(self) -> None:
        check_sampling(self)
        if self.sampler not in ("ddim", "ddpm"):
            raise ValueError(f"sampling: sampler must be 'ddim' or 'ddpm', given {self.sampler!r}")
        if self.ends not in ("sample", "estimate"):
            raise ValueError(f"sampling: ends must be 'sample' or 'estimate', given {self.ends!r}")
        for name in ("eta", "gamma"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"sampling: {name} must be in [0, 1], given {getattr(self, name)}")


@register("diffusion", version=1)
@dataclass(frozen=True)
class Diffusion(Task):
    """x_0 prediction over continuous log-SNR, shifted cosine schedule, SiD2 sigmoid weighting (2301.11093, 2410.19324).

    The paper states neither the bias nor the reference resolution; by default the reference is the item's own
    resolution, so that a small image is not almost noise-free.
    """

    data_kind = "continuous"
    timed = True

    bias: float = -3.0
    reference_resolution: int | None = None
    log_snr_max: float = 15.0
    log_snr_min: float = -15.0

    def __post_init__(self) -> None:
        if self.log_snr_min >= self.log_snr_max:
            raise ValueError(
                f"diffusion: log_snr_min must be below log_snr_max, given {self.log_snr_min} and {self.log_snr_max}"
            )
        if self.reference_resolution is not None and self.reference_resolution < 1:
            raise ValueError(f"diffusion: reference_resolution must be 1 or more, given {self.reference_resolution}")

    def log_snr(self, time: np.ndarray, spec: DataSpec) -> np.ndarray:
        """λ(t) of this task on items of this form."""
        shift = 0.0 if self.reference_resolution is None else 2 * math.log(self.reference_resolution / spec.grid[0])
        return schedules.shifted_cosine_log_snr(time, shift, self.log_snr_max, self.log_snr_min)

    def corrupt(self, clean: Clean, spec: DataSpec, rng: np.random.Generator, label_dropout: float = 0.0) -> Batch:
        time = rng.random(len(clean.labels))
        labels = drop_labels(clean.labels, spec.classes, label_dropout, rng)
        return self._at(clean, spec, time, labels, rng)

    def heldout(self, clean: Clean, spec: DataSpec, rng: np.random.Generator, draws: int) -> list[Batch]:
        levels = schedules.spread_levels(len(clean.labels), draws, rng)
        return [self._at(clean, spec, time, clean.labels, rng) for time in levels]

    def _at(
        self, clean: Clean, spec: DataSpec, time: np.ndarray, labels: np.ndarray, rng: np.random.Generator
    ) -> Batch:
        log_snr = self.log_snr(time, spec)
        weight = -schedules.shifted_cosine_slope(time, self.log_snr_max, self.log_snr_min)
        weight = weight * schedules.sigmoid_weight(log_snr, self.bias)
        per_item = (-1, *[1] * (clean.values.ndim - 1))
        alpha, sigma = (np.sqrt(schedules.sigmoid(sign * log_snr)).reshape(per_item) for sign in (1, -1))
        noise = rng.standard_normal(clean.values.shape, np.float32)
        noisy = (alpha * clean.values + sigma * noise).astype(np.float32)
        return Batch(noisy, labels, clean.context, log_snr.astype(np.float32), clean.values, weight.astype(np.float32))

    def loss(self, output: ExitOutput, batch: Batch, ops: Ops) -> Array:
        return namespace(output.prediction).mean(self.errors(output, batch, ops))

    def distillation(self, student: ExitOutput, teacher: ExitOutput, batch: Batch, ops: Ops) -> Array:
        error = batch.weight * _mean_square(teacher.prediction - student.prediction)
        return namespace(error).mean(error)

    def errors(self, output: ExitOutput, batch: Batch, ops: Ops) -> Array:
        """w(t)·‖F(x_t) - x_0‖², the norm as a mean over dimensions so that scales do not depend on resolution."""
        return batch.weight * _mean_square(output.prediction - batch.target)

    def item_weights(self, batch: Batch) -> Array:
        return namespace(batch.weight).ones_like(batch.weight)

    def clean(self, output: ExitOutput, batch: Batch) -> Array:
        """A prediction is one of x_0 itself."""
        return output.prediction

    def noisiness(self, batch: Batch) -> Array:
        return namespace(batch.log_snr).negative(batch.log_snr)

    def trivial(self, training: Clean, spec: DataSpec) -> dict[str, Predictor]:
        """The mean of the training items, and a copy of the input: x_t / α, clipped to the range of those items."""
        mean = training.values.mean(axis=0, dtype=np.float64).astype(np.float32)
        low, high = training.values.min(), training.values.max()

        def copy(batch: Batch) -> np.ndarray:
            alpha = np.sqrt(schedules.sigmoid(np.asarray(batch.log_snr))).reshape((-1, *[1] * mean.ndim))
            return np.clip(batch.inputs / alpha, low, high)

        return {"mean item": lambda batch: np.broadcast_to(mean, batch.inputs.shape), "copy": copy}

    def sampling(self, **options: Any) -> DiffusionSampling:
        return build(DiffusionSampling, options)

    def sample(
        self,
        predict: Predict,
        spec: DataSpec,
        labels: np.ndarray,
        loops: int,
        rng: np.random.Generator,
        ops: Ops,
        settings: DiffusionSampling | None = None,
        given: Clean | None = None,
    ) -> Generator[Array, int | None, None]:
        settings = settings or DiffusionSampling()
        predict = guided(predict, settings.guidance_scale, spec.classes, ops)
        shape = (len(labels), *spec.grid, spec.channels)
        context = None if given is None or given.context is None else ops.asarray(given.context)
        device_labels = ops.asarray(np.asarray(labels, np.int32))
        state = ops.asarray(rng.standard_normal(shape, np.float32))
        log_snrs = self.log_snr(np.linspace(1, 0, settings.steps + 1), spec)
        for step in range(settings.steps):
            current, following = float(log_snrs[step]), float(log_snrs[step + 1])
            level = ops.asarray(np.full(len(labels), current, np.float32))
            clean = predict(state, device_labels, level, context, loops)
            if settings.clip:
                clean = namespace(clean).clip(clean, -1.0, 1.0)
            last = step == settings.steps - 1
            noise = None if last else ops.asarray(rng.standard_normal(shape, np.float32))
            ended = last and settings.ends == "estimate"
            state = clean if ended else advance(state, clean, current, following, noise, settings)
            loops = (yield state) or loops


def advance(
    state: Array, clean: Array, current: float, following: float, noise: Array | None, settings: DiffusionSampling
) -> Array:
    """One step from log-SNR `current` to the cleaner `following`, given the estimate of x_0; no noise at the last step.

    Ancestral: mean α_s[(1 - C) z/α_t + C x̂], C = 1 - exp(λ_t - λ_s), variance between σ_s²C and σ_t²C (arXiv
    2006.11239, 2107.00630). DDIM: α_s x̂ + sqrt(σ_s² - η²σ_s²C) ε̂ + η sqrt(σ_s²C) n (arXiv 2010.02502).
    """
    alpha_t, sigma_t = _alpha_sigma(current)
    alpha_s, sigma_s = _alpha_sigma(following)
    fraction = -math.expm1(current - following)  # C
    low, high = sigma_s**2 * fraction, sigma_t**2 * fraction
    if settings.sampler == "ddpm":
        mean = (alpha_s * (1 - fraction) / alpha_t) * state + (alpha_s * fraction) * clean
        spread = math.sqrt(low ** (1 - settings.gamma) * high**settings.gamma)
    else:
        estimate_of_noise = (state - alpha_t * clean) / sigma_t
        mean = alpha_s * clean + math.sqrt(sigma_s**2 - settings.eta**2 * low) * estimate_of_noise
        spread = settings.eta * math.sqrt(low)
    return mean if noise is None or spread == 0.0 else mean + spread * noise


def _alpha_sigma(log_snr: float) -> tuple[float, float]:
    return math.sqrt(schedules.sigmoid(log_snr)), math.sqrt(schedules.sigmoid(-log_snr))


def _mean_square(difference: Array) -> Array:
    flat = namespace(difference).reshape(difference, (difference.shape[0], -1))
    return namespace(flat).mean(flat * flat, axis=1)
