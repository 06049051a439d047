"""Random streams that any two runs with one seed share, whatever their trainer, architecture or backend."""

from __future__ import annotations

import hashlib

import numpy as np

from eltbench.core.validation import whole

HELDOUT_SHARE = 8


def stream(dataset: str, seed: int, purpose: str, step: int = 0) -> np.random.Generator:
    """The generator of one purpose (batch, corruption, exits, …) at one step.

    Counter-based, so a resumed run continues without replaying. The step fills the highest word of Philox's 256-bit
    counter: with `counter=step` the streams of neighbouring steps would overlap after four draws. Raises ValueError for
    a seed that is no whole number of 0 or more.
    """
    if not whole(seed) or seed < 0:
        raise ValueError(f"seed must be a whole number of 0 or more, given {seed!r}")
    digest = hashlib.blake2b(f"{dataset}\0{seed}\0{purpose}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little"), counter=step << 192))


def held_out(dataset: str, items: np.ndarray) -> np.ndarray:
    """Which items (B, …) of integers belong to the held-out ones (B,): one in HELDOUT_SHARE, by a hash of the item.

    So generated items never stand in both splits, whenever and wherever they are drawn.
    """
    flat = items.reshape(len(items), -1 if items.size else 0).astype(np.int64).astype(np.uint64)
    weights = stream(dataset, 0, f"hash of {flat.shape[1]}").integers(1 << 62, size=flat.shape[1], dtype=np.uint64)
    mixed: np.ndarray = (flat * weights).sum(axis=1, dtype=np.uint64) >> np.uint64(17)
    return np.asarray(mixed % HELDOUT_SHARE == 0)
