"""Whether samples are copies: their distance to the nearest training image, beside that of held-out images."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Memorising(NamedTuple):
    """Median L2 distances over pixels in [-1, 1]; a sampler that copies has the first far below the second."""

    nearest_training_distance: float
    heldout_nearest_training_distance: float


def memorising(samples: np.ndarray, training: np.ndarray, heldout: np.ndarray) -> Memorising:
    """Median distance to the nearest training image, of samples and of held-out images; all (n, H, W, C) in [-1, 1].

    Samples are clipped to [-1, 1] first, as where their quality is scored. Raises ValueError where shapes differ.
    """
    from sklearn.neighbors import NearestNeighbors  # a world without images does without

    if not samples.shape[1:] == training.shape[1:] == heldout.shape[1:]:
        raise ValueError(f"memorising: image shapes differ: {samples.shape}, {training.shape}, {heldout.shape}")
    tree = NearestNeighbors(n_neighbors=1).fit(training.reshape(len(training), -1))
    medians = (
        float(np.median(tree.kneighbors(np.clip(images, -1, 1).reshape(len(images), -1))[0]))
        for images in (samples, heldout)
    )
    return Memorising(*medians)
