"""Matrix products of a traced JAX program."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import jax


def products(jaxpr, trips: int) -> Iterator[tuple[Any, int]]:
    """Every matrix product and how often it runs: a scan's body as often as it says, a while's `trips` times.

    XLA's own analysis counts both bodies once.
    """
    for equation in jaxpr.eqns:
        if equation.primitive.name == "custom_linear_solve":  # of Anderson acceleration; it describes what it solves
            continue
        if equation.primitive.name == "dot_general":
            yield equation, 1
        times = {"scan": equation.params.get("length"), "while": trips}.get(equation.primitive.name, 1)
        for value in jax.tree.leaves(equation.params, is_leaf=lambda value: hasattr(value, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from ((product, times * count) for product, count in products(inner, trips))


def macs(jaxpr, trips: int) -> int:
    """Multiply-accumulates of the matrix products."""
    total = 0
    for equation, times in products(jaxpr, trips):
        (contracted, _), _ = equation.params["dimension_numbers"]
        lengths = [equation.invars[0].aval.shape[axis] for axis in contracted]
        total += times * math.prod(lengths) * equation.outvars[0].aval.size
    return total
