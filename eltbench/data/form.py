"""Checks of arrays against the form of the data, where they come in: from a dataset, and from a caller of a model.

Integers are read only where nothing is lost by it, and nothing is broadcast: a label of 2³² would become 0, one of 0.9
too, and labels (B, 1) would become the labels of all items.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from eltbench.data.base import Clean, Dataset, DataSpec

BEYOND = 1e-3  # that clean values may lie outside [-1, 1], for rounding


def check_clean(clean: Clean, spec: DataSpec, what: str, items: int | None = None) -> None:
    """Refuse (ValueError) items of a dataset that are not of its form, or not `items`; what: names them in messages.

    Items that say what they hide must hide something, though not each of them.
    """
    if not isinstance(clean, Clean):
        raise ValueError(f"{what}: expected eltbench.data.Clean(values, labels), given {type(clean).__name__}")
    items = len(np.atleast_1d(clean.labels)) if items is None else items
    _known_items(clean, spec, what, items, "iu", last_token=spec.vocabulary - 1)
    counted = f"{spec.classes} classes, counted from 0" if spec.classes else "zeros: there are no classes"
    whole(clean.labels, (items,), max(1, spec.classes), f"{what}: labels", counted, "iu")
    if clean.hidden is not None and not np.any(clean.hidden):
        raise ValueError(f"{what}: `hidden` hides nothing in any of {items} items, so that nothing is to be predicted")


def check_splits(dataset: Dataset) -> None:
    """Refuse (ValueError) a dataset whose training or held-out items are not of its form."""
    for split, items in (("training", dataset.training()), ("held-out", dataset.heldout())):
        check_clean(items, dataset.spec, f"dataset {dataset.name!r}, {split} items")


def check_given(given: Clean | None, spec: DataSpec, what: str, items: int) -> None:
    """Refuse (ValueError) items to draw samples around unless they have the number and form; tokens may be masks."""
    if given is None:
        if spec.context_vocabulary:
            raise ValueError(f"{what}: this world needs context tokens; give given=Clean(…) with them")
        return
    if not isinstance(given, Clean):
        raise ValueError(f"{what}: given is expected as eltbench.data.Clean, given {type(given).__name__}")
    _known_items(given, spec, f"{what}: given", items, "iuf", last_token=spec.vocabulary)


def inputs(array: Any, spec: DataSpec, what: str) -> np.ndarray:
    """What a network is shown: finite values (B, H, W, C) in float32, or tokens (B, T) int32, `vocabulary` the mask."""
    found = np.asarray(array)
    if not found.ndim or not len(found):
        raise ValueError(f"{what}: give one item or more, given {'none' if found.ndim else 'a number'}")
    if spec.kind == "tokens":
        counted = "tokens, the last of them the mask"
        return whole(found, (len(found), spec.tokens), spec.vocabulary + 1, f"{what}: inputs", counted)
    return _finite(found, (len(found), *spec.grid, spec.channels), f"{what}: inputs")


def labels(array: Any, spec: DataSpec, what: str, items: int | None = None) -> np.ndarray:
    """Classes (B,) int32, of which `classes` is the null label."""
    found = np.asarray(array)
    if items is None:
        if found.ndim != 1 or not len(found):
            raise ValueError(f"{what}: labels must be (items,), one or more, given shape {found.shape}")
        items = len(found)
    counted = f"{spec.classes} classes, then the null label"
    return whole(found, (items,), spec.classes + 1, f"{what}: labels", counted)


def context(array: Any, spec: DataSpec, what: str, items: int) -> np.ndarray:
    """Context tokens (B, T) int32."""
    if not spec.context_vocabulary:
        raise ValueError(f"{what}: this world has no context tokens, so leave `context` out")
    return whole(array, (items, spec.tokens), spec.context_vocabulary, f"{what}: context", "context tokens")


def noise_levels(array: Any, what: str, items: int) -> np.ndarray:
    """log-SNR (B,) in float32, from as many or from one number for all."""
    found = np.asarray(array)
    if found.dtype.kind in "iu":
        found = found.astype(np.float64)
    shape = (items,) if found.ndim else ()
    return np.broadcast_to(_finite(found, shape, f"{what}: log_snr"), (items,)).copy()


def whole(array: Any, shape: tuple[int, ...], count: int, what: str, counted: str, kinds: str = "iuf") -> np.ndarray:
    """Whole numbers 0..count-1 of this shape as int32, of these NumPy kinds and nothing lost; else ValueError.

    counted: what the numbers stand for, in words for the message.
    """
    found = np.asarray(array)
    if found.shape != shape:
        raise ValueError(f"{what}: expected shape {shape}, given {found.shape}")
    if found.dtype.kind not in kinds:
        raise ValueError(f"{what}: expected integers, given {found.dtype}")
    if found.size:
        low, high = found.min(), found.max()
        if not (low >= 0 and high < count):
            raise ValueError(f"{what} must be 0..{count - 1} ({counted}), given {low}..{high}")
        if found.dtype.kind == "f" and (lost := found != np.floor(found)).any():
            raise ValueError(f"{what} must be whole numbers, given {found[lost].flat[0]}")
    return found.astype(np.int32)


def _known_items(clean: Clean, spec: DataSpec, what: str, items: int, kinds: str, last_token: int) -> None:
    """Check values, context and hidden positions of so many items; `kinds` may hold integers."""
    if spec.kind == "tokens":
        whole(clean.values, (items, spec.tokens), last_token + 1, f"{what}: values", "tokens", kinds)
    else:
        values = _finite(clean.values, (items, *spec.grid, spec.channels), f"{what}: values")
        low, high = (values.min(), values.max()) if values.size else (0.0, 0.0)
        if low < -1 - BEYOND or high > 1 + BEYOND:
            raise ValueError(f"{what}: values must lie in [-1, 1], given {low:g}..{high:g}; scale them first")
    if (clean.context is None) != (spec.context_vocabulary == 0):
        there = "no context" if clean.context is None else "context"
        raise ValueError(f"{what}: the form has {spec.context_vocabulary} context tokens, given {there}")
    if clean.context is not None:
        count, named = spec.context_vocabulary, f"{what}: context"
        whole(clean.context, (items, spec.tokens), count, named, "context tokens", kinds)
    if clean.hidden is not None:
        hidden = np.asarray(clean.hidden)
        if hidden.dtype != bool or hidden.shape != (items, spec.tokens):
            raise ValueError(
                f"{what}: hidden must be bool of shape {(items, spec.tokens)}, given {hidden.dtype} {hidden.shape}"
            )


def _finite(array: Any, shape: tuple[int, ...], what: str) -> np.ndarray:
    """Finite floating values of this shape in float32."""
    found = np.asarray(array)
    if found.shape != shape:
        raise ValueError(f"{what}: expected shape {shape}, given {found.shape}")
    if found.dtype.kind != "f":
        raise ValueError(f"{what}: expected floating values, clean ones in [-1, 1], given {found.dtype}")
    with np.errstate(over="ignore"):
        found = found.astype(np.float32, copy=False)
    low, high = (found.min(), found.max()) if found.size else (0.0, 0.0)  # not a number where one value is none
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = found.size - int(np.isfinite(found).sum())
        raise ValueError(f"{what}: {bad} of {found.size} values are not finite")
    return found
