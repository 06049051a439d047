"""Several seeds of one configuration as one program: the training step of a run, vectorised over the runs."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eltbench.backends.jax.engine import JaxEngine, Passes, Recipe, Training, train_step
from eltbench.tasks.base import Batch


class JaxSeeds:
    """Engines that step together (see `eltbench.backends.base.Seeds`), their states stacked on one device.

    Raises ValueError at a step where the trainer reads more exits for one seed than for another.
    """

    def __init__(self, engines: Sequence[JaxEngine]) -> None:
        self._engines = engines
        self._recipe, self._ops = engines[0].recipe, engines[0].ops
        self._state = _stacked([engine.state for engine in engines])
        for engine in engines:
            engine.state = jax.eval_shape(lambda state: state, engine.state)  # blank: the values are in the stack

    def step(
        self, batches: Sequence[Batch], exits: Sequence[tuple[int, ...]], progress: float, learning_rate: float
    ) -> dict[str, Array]:
        checked = [self._recipe.passes(each) for each in exits]
        if len({tuple(len(read) for read, _ in each) for each in checked}) > 1:
            raise ValueError(
                f"vectorised seeds read equally many exits at a step, given {[list(each) for each in exits]}; train "
                "the seeds of this trainer apart"
            )
        read = jax.tree.map(lambda *each: np.stack(each), *checked)  # exits (S, E) of every pass
        fields = zip(*batches, strict=True)  # each (S, B, ...)
        batch = Batch(*(None if field[0] is None else self._ops.asarray(np.stack(field)) for field in fields))
        numbers = np.float32(progress), np.float32(learning_rate)
        self._state, values = _train_steps(self._recipe, self._state, batch, read, *numbers)
        return values

    def engine(self, place: int) -> JaxEngine:
        engine = copy(self._engines[place])
        engine.state = _one(self._state, np.int32(place))
        return engine


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def _train_steps(
    recipe: Recipe, states: Training, batches: Batch, exits: Passes, progress: Array, learning_rate: Array
) -> tuple[Training, dict[str, Array]]:
    """`train_step` of every seed; states, batches and exits have a leading axis (S,)."""
    step = jax.vmap(partial(train_step, recipe), in_axes=(0, 0, 0, None, None))
    return step(states, batches, exits, progress, learning_rate)


@jax.jit
def _stacked(states: Sequence[Training]) -> Training:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


@jax.jit
def _one(states: Training, place: Array) -> Training:
    return jax.tree.map(lambda leaf: leaf[place], states)
