"""Handwritten digits: 1,797 real images of 8x8 pixels and 17 grey levels, from scikit-learn, without a download.

The split is fixed: 1,440 images to train on and 357 held out, stratified by class.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from eltbench import data
from eltbench.data.base import Clean, Dataset, DataSpec
from eltbench.data.tokenizers import PatchCodebook

LEVELS = 17  # grey levels 0..16, evenly spread over [-1, 1]
HELDOUT_ITEMS = 357


class _DigitsWorld(Dataset):
    """The split and its batches; a form says how images become values."""

    @abstractmethod
    def values(self, images: np.ndarray) -> np.ndarray:
        """Images (B, 8, 8, 1) in [-1, 1] as this form's values; the inverse of `images` where nothing is lost."""

    def batch(self, rng: np.random.Generator, size: int) -> Clean:
        training, _ = _encoded(self)
        drawn = rng.integers(len(training.labels), size=size)
        return Clean(training.values[drawn], training.labels[drawn])

    def training(self) -> Clean:
        return _copy(_encoded(self)[0])

    def heldout(self) -> Clean:
        return _copy(_encoded(self)[1])


@data.register("digits", version=1)
@dataclass(frozen=True)
class Digits(_DigitsWorld):
    """Digits as 8x8 pixels in [-1, 1]."""

    @property
    def spec(self) -> DataSpec:
        return DataSpec("continuous", (8, 8), channels=1, classes=10)

    def values(self, images: np.ndarray) -> np.ndarray:
        return images

    def images(self, values: np.ndarray) -> np.ndarray:
        return np.clip(values, -1, 1).astype(np.float32)


@data.register("digits-codes", version=1)
@dataclass(frozen=True)
class DigitsCodes(_DigitsWorld):
    """Digits as 16 tokens, each the nearest of `codes` 2x2 patches found by k-means on the training split."""

    codes: int = 64

    def __post_init__(self) -> None:
        if not isinstance(self.codes, int) or self.codes < 1:
            raise ValueError(f"digits-codes: codes must be a positive integer, given {self.codes!r}")

    @property
    def spec(self) -> DataSpec:
        return DataSpec("tokens", (4, 4), vocabulary=self.codes, classes=10)

    @property
    def codebook(self) -> PatchCodebook:
        """The codebook, fitted once a process; raises ValueError for more codes than distinct patches."""
        return _codebook(self.codes)

    def values(self, images: np.ndarray) -> np.ndarray:
        return self.codebook.encode(images)

    def images(self, values: np.ndarray) -> np.ndarray:
        """The images of their codes; masked patches are mid-grey."""
        return self.codebook.decode(values)


@data.register("digits-levels", version=1)
@dataclass(frozen=True)
class DigitsLevels(_DigitsWorld):
    """Digits as 64 tokens, each the grey level of a pixel; nothing is lost."""

    @property
    def spec(self) -> DataSpec:
        return DataSpec("tokens", (8, 8), vocabulary=LEVELS, classes=10)

    def values(self, images: np.ndarray) -> np.ndarray:
        return np.rint((images + 1) * (LEVELS - 1) / 2).astype(np.int32).reshape(len(images), -1)

    def images(self, values: np.ndarray) -> np.ndarray:
        greys = np.append(np.linspace(-1, 1, LEVELS), 0).astype(np.float32)  # the mask is mid-grey
        return greys[values].reshape(-1, 8, 8, 1)


@lru_cache(maxsize=1)
def _split() -> tuple[Clean, Clean]:
    """Training and held-out images (B, 8, 8, 1) float32 in [-1, 1] with their classes."""
    digits = load_digits()
    images = (digits.images[..., None] / 8 - 1).astype(np.float32)
    labels = digits.target.astype(np.int32)
    train, test = train_test_split(np.arange(len(labels)), test_size=HELDOUT_ITEMS, stratify=labels, random_state=0)
    return Clean(images[train], labels[train]), Clean(images[test], labels[test])


@lru_cache
def _codebook(codes: int) -> PatchCodebook:
    return PatchCodebook.fit(_split()[0].values, codes)


@lru_cache
def _encoded(world: _DigitsWorld) -> tuple[Clean, Clean]:
    """Both splits in the world's form; never handed out, so that no caller can change them."""
    training, heldout = (split._replace(values=world.values(split.values)) for split in _split())
    return training, heldout


def _copy(clean: Clean) -> Clean:
    return Clean(clean.values.copy(), clean.labels.copy())
