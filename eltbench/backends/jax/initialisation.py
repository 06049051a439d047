"""The weights a network starts from, drawn on the host, and the names by which checkpoints know them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import numpy as np

from eltbench.backends.initialisation import start

Tree = TypeVar("Tree")


def initialise(network: Tree, rng: np.random.Generator, *, zero_head: bool) -> Tree:
    """The network with every blank parameter drawn, in the order of its fields."""

    def draw(path: tuple, place: jax.ShapeDtypeStruct) -> np.ndarray:
        kind, scale = start(_name(path), zero_head=zero_head)
        if kind == "normal":
            return scale * rng.standard_normal(place.shape, np.float32)
        if kind == "xavier":
            bound = np.sqrt(6 / sum(place.shape[-2:]))
            return rng.uniform(-bound, bound, place.shape).astype(np.float32)
        return np.eye(*place.shape, dtype=np.float32) if kind == "identity" else np.full(place.shape, scale, np.float32)

    return jax.tree_util.tree_map_with_path(draw, network)


def named(tree: Any) -> dict[str, Any]:
    """The parameters of a network, or whatever has its form, by name: `blocks.0.attention.qkv.weight`."""
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def renamed(tree: Tree, values: Mapping[str, Any]) -> Tree:
    """The same form with these values at its names."""
    return jax.tree_util.tree_map_with_path(lambda path, _: values[_name(path)], tree)


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")
