"""How good generated images are: distances of features of samples and real images by torch-fidelity, and of copies.

Every value depends on the number of images and on the extractor; read it beside that of two real sets (`real_floor`).
The Fréchet distance is biased upward at these sizes and cannot rank good models; the unbiased kernel distance can.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from eltbench.core.streams import stream
from eltbench.data.base import Dataset
from eltbench.evaluation.quality.features import INCEPTION, Features, extract, full_name

NAMES = {
    "frechet": "frechet_distance",
    "kernel": "kernel_distance",
    "precision": "precision",
    "recall": "recall",
    "score": "classifier_score",
}
INCEPTION_NAMES = NAMES | {"frechet": "fid", "kernel": "kid", "score": "inception_score"}
BETTER_WHEN_HIGHER = ("precision", "recall", "score")
FEWEST = 5  # images of each set: precision and recall need that many


@dataclass(frozen=True)
class Score:
    """One metric of one set of samples, with what its value depends on."""

    metric: str
    value: float
    higher_is_better: bool
    n_samples: int  # of each of the two sets
    feature_extractor: str


def quality(samples: np.ndarray, reference: np.ndarray, *, extractor: str = "digits-conv") -> list[Score]:
    """Fréchet and kernel distance, precision, recall and classifier score of samples against real images.

    Both are images (n, H, W, C) float32 in [-1, 1], in random order with like class frequencies; the first min(n, m) of
    each are used. Raises ValueError for fewer than five, for values that are not finite or outside [-1, 1], for sets of
    which one is in [0, 1] and the other in [-1, 1], and for shapes the extractor does not take.
    """
    n = min(len(samples), len(reference))
    drawn, real = (extract(images[:n], extractor) for images in (samples, reference))
    for name, images, others in (("samples", samples, reference), ("reference", reference, samples)):
        if n and images.min() >= 0 and images.max() <= 1 and others.min() < 0:
            raise ValueError(
                f"quality: all values of {name} lie in 0..1, those of the other set begin at {others.min():g}: "
                "expected both in [-1, 1]; of 0..1 take 2 * x - 1"
            )
    return scores(drawn, real, full_name(extractor))


def scores(generated: Features, real: Features, extractor: str) -> list[Score]:
    """The metrics of `quality` from features of two sets of equal size n, computed by torch-fidelity.

    Kernel: (x·y/d + 1)³, unbiased, over all n at once (arXiv 1801.01401); precision and recall: balls to the third
    nearest neighbour (arXiv 1904.06991); classifier score: exp E KL(p(y|x) ‖ p(y)) over all n, not by splits of n/10,
    which would bias it at these sizes (arXiv 1606.03498). Only Inception's are named fid, kid and inception_score.
    """
    import torch
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric
    from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

    n = len(generated.maps)
    if n != len(real.maps) or n < FEWEST:
        raise ValueError(f"quality: expected two sets of equal size, at least {FEWEST}, given {n} and {len(real.maps)}")
    ours, theirs, logits = (torch.from_numpy(of) for of in (generated.maps, real.maps, generated.logits))  # (n, d)
    statistics = [fid_features_to_statistics(maps) for maps in (ours, theirs)]
    kernel = kid_features_to_metric(ours, theirs, kid_subsets=1, kid_subset_size=n, verbose=False)
    prc = prc_features_to_metric(ours, theirs, verbose=False)
    values = {
        "frechet": fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID],
        "kernel": kernel[KEY_METRIC_KID_MEAN],
        "precision": prc[KEY_METRIC_PRECISION],
        "recall": prc[KEY_METRIC_RECALL],
        "score": isc_features_to_metric(logits, splits=1, shuffle=False)[KEY_METRIC_ISC_MEAN],
    }
    names = INCEPTION_NAMES if extractor == INCEPTION else NAMES
    return [Score(names[key], float(value), key in BETTER_WHEN_HIGHER, n, extractor) for key, value in values.items()]


def reference(dataset: Dataset, n: int) -> np.ndarray:
    """The first n held-out images, (n, H, W, C): what samples are compared with, since no model has seen them.

    A dataset of codes gives its decoded images, so that what the codes lose is not charged to the model. Raises
    ValueError where n exceeds the held-out split.
    """
    heldout = dataset.heldout().values
    if n > len(heldout):
        raise ValueError(f"quality: n is at most the {len(heldout)} held-out images, given {n}")
    return _images(dataset, heldout[:n])


def real_floor(dataset: Dataset, n: int, *, extractor: str = "digits-conv") -> list[Score]:
    """The metrics of n training images with the reference's class frequencies against the n images of `reference`.

    What a perfect model would score at this size, up to chance: both sets are real and disjoint.
    Raises ValueError where n exceeds the held-out split or a class has too few training images.
    """
    training = dataset.training()
    chosen = _like_heldout(dataset, training.labels, n)
    return quality(_images(dataset, training.values[chosen]), reference(dataset, n), extractor=extractor)


def check_real_images(dataset: Dataset, n: int) -> None:
    """Refuse (ValueError) a number of samples for which a dataset has too few real images to stand beside them."""
    if n < FEWEST:
        raise ValueError(f"quality: at least {FEWEST} held-out images are needed, {dataset.name!r} gives {n}")
    labels = dataset.training().labels
    _like_heldout(dataset, labels, n)
    _check_null(n, len(labels) + len(dataset.heldout().labels))


def _check_null(n: int, images: int) -> None:
    if 2 * n > images:
        raise ValueError(f"kernel null: two sets of {n} need {2 * n} real images, the dataset has {images}")


def _like_heldout(dataset: Dataset, labels: np.ndarray, n: int) -> np.ndarray:
    """Positions (n,) of training images of these labels, in the classes of the first n held-out ones."""
    wanted = dataset.heldout().labels[:n]
    order = stream(dataset.name, 0, "floor").permutation(len(labels))
    chosen = np.empty(len(wanted), dtype=np.int64)
    for label in np.unique(wanted):
        places, candidates = np.flatnonzero(wanted == label), order[labels[order] == label]
        if len(candidates) < len(places):
            raise ValueError(f"quality: class {label} has {len(candidates)} training images, {len(places)} needed")
        chosen[places] = candidates[: len(places)]
    return chosen


def kernel_null(dataset: Dataset, n: int, *, draws: int = 1000, extractor: str = "digits-conv") -> float:
    """The standard deviation of the kernel distance between two random disjoint sets of n real images each.

    The permutation null over both splits together, below which a kernel distance at this size says nothing. Skewed to
    the right, so it takes many draws; always the same for the same arguments. ValueError for fewer than 2n real images.
    """
    images = np.concatenate([_images(dataset, split.values) for split in (dataset.training(), dataset.heldout())])
    _check_null(n, len(images))
    rng = stream(dataset.name, 0, "kernel-null")
    images = images[rng.permutation(len(images))[: max(2 * n, 2000)]]  # bounds the kernel matrix of a large dataset
    maps = extract(images, extractor).maps
    kernel = (maps @ maps.T / maps.shape[1] + 1) ** 3
    places = np.array([rng.permutation(len(images))[: 2 * n] for _ in range(draws)])
    first, second = np.zeros((2, len(images), draws))  # indicators of the two sets, one draw a column
    np.put_along_axis(first, places[:, :n].T, 1, axis=0)
    np.put_along_axis(second, places[:, n:].T, 1, axis=0)
    np.fill_diagonal(kernel, 0)  # the two sets are disjoint, so no pair needs the diagonal
    within = (first * (kernel @ first) + second * (kernel @ second)).sum(0) / (n * (n - 1))
    between = (first * (kernel @ second)).sum(0) / n**2
    return float((within - 2 * between).std(ddof=1))


def _images(dataset: Dataset, values: np.ndarray) -> np.ndarray:
    images = dataset.images(values)
    if images is None:
        raise ValueError(f"quality: dataset {dataset.name!r} has no images to score")
    return images


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
    flat = (np.clip(images, -1, 1).reshape(len(images), -1) for images in (samples, heldout))
    return Memorising(*(float(np.median(tree.kneighbors(images)[0])) for images in flat))
