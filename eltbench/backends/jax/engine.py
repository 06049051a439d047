"""The JAX engine: optimiser step, averaged weights, precision, checkpoints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jax.sharding import NamedSharding

from eltbench.accounting import NetworkSpec
from eltbench.backends import checkpoint
from eltbench.backends.base import Engine, check_exits
from eltbench.backends.jax.initialisation import initialise, named, renamed
from eltbench.backends.jax.network import Network, in_precision
from eltbench.backends.jax.ops import JaxOps
from eltbench.backends.jax.parallel import available_devices, placement
from eltbench.backends.jax.recurrence import JaxRecurrence
from eltbench.backends.jax.recursive import network_of
from eltbench.backends.jax.steps import JaxSteps
from eltbench.core.config import Optimisation, Run
from eltbench.core.streams import stream
from eltbench.tasks.base import Batch, ExitOutput, Task
from eltbench.trainers.base import Trainer
from eltbench.trainers.exits import passes

Passes = tuple[tuple[Any, Any], ...]
"""Of every pass of a step its exits (E,) and the loop since which gradients flow, None where all do."""


class Training(NamedTuple):
    """All that a step changes."""

    network: Network
    average: Network
    moments: optax.ScaleByAdamState


@dataclass(frozen=True)
class Recipe:
    """All that a step is compiled for; equal recipes share one program."""

    trainer: Trainer
    task: Task
    ops: JaxOps
    optimisation: Optimisation
    loops: int
    precision: str
    unroll: bool

    def passes(self, exits: tuple[int, ...]) -> Passes:
        """The passes of a step, checked on the host (ValueError): a gather would clamp what is out of range."""
        found = []
        for read, since in passes(exits):
            if check_exits(read)[-1] > self.loops:
                raise ValueError(f"exits: a training step ends at max_loops = {self.loops}, given {list(exits)}")
            found.append((np.asarray(read, np.int32), None if since is None else np.int32(since)))
        return tuple(found)


class JaxEngine(Engine):
    """One network with AdamW and an exponential average of its weights, on one device or whole on each of several.

    A step always runs the architecture's `max_loops` loops. It is compiled once for a run whose trainer reads the same
    number of exits at every step. JAX compiles in any case; `run.compile` asks for a step with its loops unrolled,
    which takes longer to compile.
    """

    ops: JaxOps

    def __init__(self, run: Run, spec: NetworkSpec, trainer: Trainer, task: Task) -> None:
        self.run, self.spec, self.trainer, self.task = run, spec, trainer, task
        home, self.divided = placement(run.device, run.devices)
        self.ops = JaxOps(home)
        self.recipe = Recipe(
            trainer, task, self.ops, run.optimisation, run.architecture.max_loops, run.precision, unroll=run.compile
        )
        solver = trainer.solver(run.architecture)
        network = network_of(spec, solver=solver)
        rng, continuous = stream(run.dataset, run.seed, "weights"), spec.data.kind == "continuous"
        network = initialise(network, rng, zero_head=continuous)
        network, average = (jax.tree.map(self.ops.asarray, network) for _ in range(2))
        state = Training(network, average, _adam(run.optimisation).init(network))
        self.state = jax.device_put(state, home)

    @staticmethod
    def check_device(device: str, devices: int = 1) -> None:
        available_devices(device, devices)

    def upload(self, batch: Batch) -> Batch:
        return _placed(batch, self.ops.device)

    def numpy(self, array: Array) -> np.ndarray:
        return np.array(array, np.float32 if jnp.issubdtype(array.dtype, jnp.floating) else array.dtype)

    def step(self, batch: Batch, exits: tuple[int, ...], progress: float, learning_rate: float) -> dict[str, Array]:
        numbers = self.recipe.passes(exits), np.float32(progress), np.float32(learning_rate)
        self.state, values = train_step(self.recipe, self.state, _placed(batch, self.divided), *numbers)
        return values

    def predict(
        self, batch: Batch, exits: Sequence[int], fields: tuple[str, ...] = ("prediction",)
    ) -> list[ExitOutput]:
        exits = check_exits(exits, deepest=self.spec.last_exit)
        if unknown := set(fields) - set(ExitOutput._fields):
            raise ValueError(f"network: fields must be among {ExitOutput._fields}, given {sorted(unknown)}")
        batch = batch._replace(target=None, weight=None)
        return _infer(self.state.average, batch, np.asarray(exits, np.int32), fields, self.run.precision)

    def recurrence(self, batch: Batch) -> JaxRecurrence:
        return JaxRecurrence(self.state.average, batch)

    def steps(self, batch: Batch) -> JaxSteps:
        return JaxSteps(self.state.average, batch._replace(target=None, weight=None), self.run.precision)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: leaf.shape for name, leaf in named(self.state.network).items()}

    def held(self, part: str) -> dict[str, np.ndarray]:
        network, average, (_, mean, square) = self.state
        tree = dict(zip(checkpoint.PARTS, (network, average, mean, square), strict=True))[part]
        return {name: np.asarray(leaf) for name, leaf in named(tree).items()}

    def restore(self, parts: checkpoint.Parts, step: int | None) -> None:
        trees = {
            part: jax.tree.map(self.ops.asarray, renamed(self.state.network, arrays)) for part, arrays in parts.items()
        }
        if step is None:
            self.state = self.state._replace(average=trees["average"])
        else:
            network, average, mean, square = (trees[part] for part in checkpoint.PARTS)
            count = self.ops.asarray(np.array(step, np.int32))
            self.state = Training(network, average, optax.ScaleByAdamState(count, mean, square))


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def train_step(
    recipe: Recipe, state: Training, batch: Batch, exits: Passes, progress: Array, learning_rate: Array
) -> tuple[Training, dict[str, Array]]:
    """One step of AdamW on the clipped gradient (torch's formulas), and the average of the weights."""
    optimisation, old = recipe.optimisation, state.network
    (loss, terms), gradient = jax.value_and_grad(objective, has_aux=True)(old, recipe, batch, exits, progress)
    norm = optax.tree.norm(gradient)
    kept = jnp.minimum(1.0, optimisation.gradient_clip / (norm + 1e-6))
    direction, moments = _adam(optimisation).update(jax.tree.map(lambda slope: kept * slope, gradient), state.moments)

    def moved(weight: Array, move: Array) -> Array:
        return weight - learning_rate * (optimisation.decay_of(weight.ndim) * weight + move)

    network = jax.tree.map(moved, old, direction)
    follow = _follow(optimisation, state.moments.count)
    average = jax.tree.map(lambda mean, weight: mean + follow * (weight - mean), state.average, network)
    new = Training(network, average, moments)
    if isinstance(recipe.ops.device, NamedSharding):  # stays whole on every device, whatever the compiler finds cheaper
        new = lax.with_sharding_constraint(new, recipe.ops.device)
    return new, {**terms, "loss": loss, "gradient_norm": norm}


def objective(
    network: Network, recipe: Recipe, batch: Batch, exits: Passes, progress: Array
) -> tuple[Array, dict[str, Array]]:
    """The trainer's loss and its terms, for weights in float32."""
    trainer, network = recipe.trainer, in_precision(network, recipe.precision)
    how: dict[str, Any] = {"loops": recipe.loops, "unroll": recipe.unroll}
    outputs = [
        output for read, since in exits for output in network.train(batch, read, trainer.fields, since=since, **how)
    ]
    terms = trainer.objective(outputs, batch, progress, recipe.task, recipe.ops)
    return jnp.stack(list(terms.values())).sum(), terms


def _follow(optimisation: Optimisation, count: Array) -> Array:
    """How far the average goes towards the new weights at step count + 1: at the first all the way."""
    decay = optimisation.ema_decay
    if optimisation.ema_debias and decay:  # (1 - d)/(1 - d^t), whose divisor float32 would lose near d = 1
        return (decay - 1) / jnp.expm1((count + 1) * math.log(decay))
    return jnp.where(count == 0, 1.0, 1 - decay)


@partial(jax.jit, static_argnums=(3, 4))
def _infer(network: Network, batch: Batch, exits: Array, fields: tuple[str, ...], precision: str) -> list[ExitOutput]:
    return in_precision(network, precision).infer(batch, exits, fields)


def _adam(optimisation: Optimisation) -> optax.GradientTransformation:
    return optax.scale_by_adam(*optimisation.betas, eps=1e-8)


def _placed(batch: Batch, where: jax.Device | NamedSharding) -> Batch:
    """A copy of a host batch, there: what becomes of the host's arrays afterwards does not matter."""
    return jax.device_put(jax.tree.map(np.array, batch), where)
