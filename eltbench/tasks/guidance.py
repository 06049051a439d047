"""Classifier-free guidance, in the convention of DiT."""

from __future__ import annotations

import numpy as np

from eltbench.core.arrays import Array, namespace
from eltbench.tasks.base import Ops, Predict


def check_guidance(scale: float, classes: int, label_dropout: float) -> None:
    """Refuse (ValueError) guidance of a model that never saw the null label, or sees no other."""
    if scale != 1.0 and not (classes and label_dropout):
        raise ValueError(
            f"guidance_scale is {scale:g}, which takes a model that was trained with and without labels, given "
            f"{classes} classes and label_dropout = {label_dropout:g}; guidance_scale = 1 is no guidance"
        )


def guided(predict: Predict, scale: float, null_label: int, ops: Ops) -> Predict:
    """A prediction u + s(c - u) from one batched call; `scale` s = 1 is no guidance, Ho and Salimans' w is s - 1.

    Guiding x̂ equals guiding ε̂ as long as x̂ is not clipped; clip afterwards.
    """
    if scale == 1.0:
        return predict

    def predict_guided(inputs: Array, labels: Array, log_snr: Array | None, context: Array | None, loops: int) -> Array:
        xp = namespace(inputs)
        null = ops.asarray(np.full(labels.shape, null_label, np.int32))

        def twice(array: Array | None) -> Array | None:
            return None if array is None else xp.concat([array, array], axis=0)

        both = predict(twice(inputs), xp.concat([labels, null], axis=0), twice(log_snr), twice(context), loops)
        conditional, unconditional = both[: labels.shape[0]], both[labels.shape[0] :]
        return unconditional + scale * (conditional - unconditional)

    return predict_guided


def drop_labels(labels: np.ndarray, null_label: int, rate: float, rng: np.random.Generator) -> np.ndarray:
    """Labels with each replaced by the null label at `rate`, as training for guidance needs."""
    return np.where(rng.random(labels.shape) < rate, null_label, labels).astype(np.int32)
