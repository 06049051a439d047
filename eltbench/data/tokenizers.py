"""Images as tokens: each patch becomes the index of its nearest code."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

_STEP = 1 / 256  # codes are multiples of this, so that distances to patches of 17 grey levels are exact in float64


@dataclass(frozen=True, eq=False)
class PatchCodebook:
    """A k-means codebook of square patches, the same whatever the machine's matrix product and number of threads.

    codes: (K, patch·patch·C) float64, ordered from dark to bright.
    """

    codes: np.ndarray
    patch: int
    grid: tuple[int, int]  # patches down and across an image

    @classmethod
    def fit(cls, images: np.ndarray, codes: int = 64, patch: int = 2, seed: int = 0) -> PatchCodebook:
        """The codebook of images (B, H, W, C) by Lloyd's k-means until no patch changes its code.

        Raises ValueError where `patch` does not divide the sides or `codes` exceeds the number of distinct patches.
        """
        patches, grid = _patches(images, patch)
        distinct, counts = np.unique(patches, axis=0, return_counts=True)
        if not 1 <= codes <= len(distinct):
            raise ValueError(f"codebook: codes must be in 1..{len(distinct)} (distinct patches), given {codes}")
        # Patches of few grey levels often lie equally far from two centres, and the rounding of the machine's matrix
        # product would break the tie. A shift far above rounding and far below a step breaks it alike everywhere.
        shifted = distinct + np.random.default_rng(seed).uniform(-1, 1, distinct.shape) * _STEP / 1000
        with threadpool_limits(1):  # the order of parallel sums would depend on the number of threads
            kmeans = KMeans(codes, n_init=1, tol=0, random_state=seed).fit(shifted, sample_weight=counts)
        centres = np.round(kmeans.cluster_centers_ / _STEP) * _STEP
        return cls(centres[np.lexsort((*centres.T, centres.mean(1)))], patch, grid)

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Images (B, H, W, C) as tokens (B, T) int32 in row order; of two codes equally near, the first."""
        patches, (rows, columns) = _patches(images, self.patch)
        distinct, inverse = np.unique(patches, axis=0, return_inverse=True)
        distance = np.zeros((len(distinct), len(self.codes)))
        for pixel, code in zip(distinct.T, self.codes.T, strict=True):
            distance += (pixel[:, None] - code) ** 2
        return distance.argmin(1)[inverse].reshape(-1, rows * columns).astype(np.int32)

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        """Tokens (B, T) as images (B, H, W, C) float32; the mask, index K, is drawn as zeros."""
        table = np.vstack([self.codes, np.zeros_like(self.codes[:1])]).astype(np.float32)
        (rows, columns), side = self.grid, self.patch
        patches = table[tokens].reshape(-1, rows, columns, side, side, self.codes.shape[1] // side**2)
        return patches.transpose(0, 1, 3, 2, 4, 5).reshape(len(tokens), rows * side, columns * side, -1)


def _patches(images: np.ndarray, patch: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Images (B, H, W, C) as rows of patches (B·T, patch·patch·C) float64, and the grid of patches."""
    batch, height, width, channels = images.shape
    if patch < 1 or height % patch or width % patch:
        raise ValueError(f"codebook: patch must divide the image's sides, given patch {patch} and {height}x{width}")
    rows, columns = height // patch, width // patch
    blocks = images.astype(np.float64).reshape(batch, rows, patch, columns, patch, channels)
    return blocks.transpose(0, 1, 3, 2, 4, 5).reshape(-1, patch * patch * channels), (rows, columns)
