"""Validation items: training items that are held back, so that what is chosen is not chosen on held-out ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from eltbench.core.streams import held_out
from eltbench.data.base import Clean, Dataset, DataSpec

DRAWS = 1000  # batches that are drawn before the items that may be trained on are taken for too rare


class WithValidation(Dataset):
    """A dataset whose held-out items are its validation items: one in eight of those to train on, by a hash.

    The hash is of values and context, so that a generated item which is held back is never trained on, whenever it is
    drawn; a puzzle under a symmetry is another item. The real held-out items are not seen.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.whole = dataset
        self.name, self.version, self.solvable = dataset.name, dataset.version, dataset.solvable  # type: ignore[misc]

    @property
    def spec(self) -> DataSpec:
        return self.whole.spec

    def batch(self, rng: np.random.Generator, size: int) -> Clean:
        """`size` items that are not held back; raises ValueError where there are none."""
        found = self.whole.batch(rng, size)
        for _ in range(DRAWS):
            back = self._held_back(found)
            if not back.any():
                return found
            found = _replaced(found, back, self.whole.batch(rng, size))
        raise ValueError(f"dataset {self.name!r}: too few of its items are left to train on; give it more")

    def training(self) -> Clean:
        return self._part(np.logical_not)

    def heldout(self) -> Clean:
        """The validation items; raises ValueError where the training split is too small to have any."""
        return self._part(np.asarray)

    def fingerprint(self) -> str:
        return self.whole.fingerprint()

    def images(self, values: np.ndarray) -> np.ndarray | None:
        return self.whole.images(values)

    def strata(self, clean: Clean) -> np.ndarray | None:
        return self.whole.strata(clean)

    def difficulty(self, clean: Clean) -> np.ndarray | None:
        return self.whole.difficulty(clean)

    @property
    def hardest_trained(self) -> int | None:
        return self.whole.hardest_trained

    def _held_back(self, clean: Clean) -> np.ndarray:
        """Which items (B,) are held back."""
        parts = [clean.values] if clean.context is None else [clean.values, clean.context]
        content = [np.ascontiguousarray(part).view(np.uint8).reshape(len(part), -1) for part in parts]
        return held_out(f"validation of {self.name}", np.concatenate(content, axis=1))

    def _part(self, chosen: Callable[[np.ndarray], np.ndarray]) -> Clean:
        training = self.whole.training()
        found = training.select(chosen(self._held_back(training)))
        if not len(found.labels):
            given = f"given {len(training.labels)}"
            raise ValueError(
                f"dataset {self.name!r}: validation items take a training split of ten items or more, {given}"
            )
        return found


def _replaced(items: Clean, where: np.ndarray, others: Clean) -> Clean:
    """The items with those at `where` taken from `others`, field by field."""
    pairs = zip(tuple(items), tuple(others), strict=True)
    return Clean._make(
        None if field is None or other is None else np.where(where.reshape(-1, *[1] * (field.ndim - 1)), other, field)
        for field, other in pairs
    )
