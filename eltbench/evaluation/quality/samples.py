"""Samples by loop count, scored beside what real images score at the same size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from eltbench.evaluation.quality.distances import (
    Memorising,
    check_real_images,
    kernel_null,
    memorising,
    real_floor,
    reference,
    scores,
)
from eltbench.evaluation.quality.features import check_shape, check_weights, extract, full_name
from eltbench.tasks.guidance import check_guidance
from eltbench.training.loop import Parts
from eltbench.training.model import Model


def check_scores(made: Parts, label_dropout: float, samples: int, guidance_scale: float, extractors: list[str]) -> None:
    """Refuse (ValueError), before anything is trained, samples that `sample_scores` could not draw or score.

    A world without images has no scores, and nothing is refused there.
    """
    dataset, spec = made.dataset, made.dataset.spec
    heldout = dataset.heldout()
    images = dataset.images(heldout.values[:1])
    if images is None:
        return
    try:
        if spec.context_vocabulary:
            raise ValueError("they would be drawn without the context that its items have")
        check_guidance(guidance_scale, spec.classes, label_dropout)
        for extractor in extractors:
            check_shape(images.shape, extractor)
            check_weights(extractor)
        check_real_images(dataset, min(samples, len(heldout.labels)))
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(
            f"measurement: {samples} samples of {dataset.name!r} cannot be scored: {error}; to measure without samples "
            "give measurement.samples = 0"
        ) from None


def sample_scores(model: Model, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of sample quality at each of settings["sample_loops"]; none where the dataset holds no images.

    settings: `sample_loops`, `samples` (how many, at most the held-out split), `sampling` (options of the task),
    `feature_extractors`. The labels are those of the held-out images they are compared with. Noise comes from the
    training seed: the same at every loop count and for every trainer, another for every seed.
    """
    dataset, count = model.dataset, settings["samples"]
    heldout = dataset.heldout()
    if not settings["sample_loops"] or dataset.images(heldout.values[:1]) is None:
        return []
    labels = heldout.labels[:count]
    count = len(labels)
    real = reference(dataset, count)
    training = dataset.images(dataset.training().values)
    assert training is not None
    sampling = model.task.sampling(**settings["sampling"])
    keys = {"split": "heldout", "sampler": sampling.sampler, "sampling_steps": sampling.steps}
    keys |= {"guidance_scale": sampling.guidance_scale, "n_samples": count}
    rows, floor = [], []
    for extractor in settings["feature_extractors"]:
        real_scores = real_floor(dataset, count, extractor=extractor)
        rows += [{**keys, **vars(score), "metric": f"{score.metric}_of_real_images"} for score in real_scores]
        kernel = next(score for score in real_scores if score.metric in ("kernel_distance", "kid"))
        null = {"metric": f"{kernel.metric}_null_deviation", "value": kernel_null(dataset, count, extractor=extractor)}
        rows.append({**keys, **vars(kernel), **null})
        floor += real_scores
    for loops in settings["sample_loops"]:
        known = {**keys, "loops": loops}
        values = model.sample(labels, loops, seed=model.run.seed, **settings["sampling"])
        if broken := count - int(np.isfinite(values).reshape(count, -1).all(axis=1).sum()):
            empty = {"value": None, "reason": f"{broken} of {count} samples are not finite"}
            rows += [{**known, **vars(score), **empty} for score in floor]
            rows += [{**known, **empty, "metric": name} for name in Memorising._fields]
            continue
        images = dataset.images(values)
        assert images is not None
        for extractor in settings["feature_extractors"]:
            # Not by `quality`, to which white samples alone would look like values of 0..1.
            found = scores(extract(images, extractor), extract(real, extractor), full_name(extractor))
            rows += [{**known, **vars(score)} for score in found]
        nearest = memorising(images, training, real)._asdict()
        rows += [{**known, "metric": name, "value": value} for name, value in nearest.items()]
    return rows
