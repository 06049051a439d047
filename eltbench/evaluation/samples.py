"""Samples by loop count, scored beside what real images score at the same size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from eltbench.evaluation.memorising import Memorising, memorising
from eltbench.evaluation.quality import kernel_null, quality, real_floor, reference
from eltbench.model import Model


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
    keys = {
        "split": "heldout",
        "sampler": sampling.sampler,
        "sampling_steps": sampling.steps,
        "guidance_scale": sampling.guidance_scale,
    }
    extractors, rows, floor = settings["feature_extractors"], [], []
    for extractor in extractors:
        scores = real_floor(dataset, count, extractor=extractor)
        rows += [{**keys, **vars(score), "metric": f"{score.metric}_of_real_images"} for score in scores]
        kernel = next(score for score in scores if score.metric in ("kernel_distance", "kid"))
        null = {"metric": f"{kernel.metric}_null_deviation", "value": kernel_null(dataset, count, extractor=extractor)}
        rows.append({**keys, **vars(kernel), **null})
        floor += scores
    for loops in settings["sample_loops"]:
        values = model.sample(labels, loops, seed=model.run.seed, **settings["sampling"])
        if broken := count - int(np.isfinite(values).reshape(count, -1).all(axis=1).sum()):
            why = f"{broken} of {count} samples are not finite"
            empty = {"loops": loops, "value": None, "reason": why}
            rows += [{**keys, **vars(score), **empty} for score in floor]
            rows += [{**keys, **empty, "metric": name, "n_samples": count} for name in Memorising._fields]
            continue
        images = dataset.images(values)
        assert images is not None
        for extractor in extractors:
            rows += [{**keys, **vars(score), "loops": loops} for score in quality(images, real, extractor=extractor)]
        nearest = memorising(images, training, real)
        rows += [
            {**keys, "loops": loops, "metric": name, "value": value, "n_samples": count}
            for name, value in nearest._asdict().items()
        ]
    return rows
