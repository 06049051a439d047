"""The network: N unique layers applied L times, read at any of the loops.

A call is made of the three steps of the torch room (`embed`, `loop`, `read`), and comes in two forms that give the same
outputs: `train` scans a static number of loops, can be differentiated and gathers the exits' states before the head;
`infer` runs up to the last exit, whose number is traced. Neither is compiled again for other exits, only for another
number of them. Exits are arrays here and taken as they are: check them on the host, for JAX clamps what is out of
range.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax

from eltbench.accounting import NetworkSpec
from eltbench.backends import positions
from eltbench.backends.adapters import PLAIN, Updates
from eltbench.backends.dropout import kept_scale
from eltbench.backends.jax.adapters import Adapters, Stack
from eltbench.backends.jax.blocks import BertBlock, DiTBlock, Embedding, Head, LayerNorm, Linear, Modulation, block_of
from eltbench.backends.jax.equilibrium import phantom_gradient
from eltbench.backends.jax.halting import Halting
from eltbench.backends.steps import Carry, Conditioning
from eltbench.core.fixed_point import Solver
from eltbench.tasks.base import Batch, ExitOutput

Tree = TypeVar("Tree")


class Reading(NamedTuple):
    """What an exit takes from a loop, before the head: what it reads and the state (B, P + T, D), and what it says.

    That is ponder, unhalted and halting of its output. Fields that no exit needs are None.
    """

    read: Array | None
    state: Array | None
    ponder: Array | None
    unhalted: Array | None
    halting: Array | None = None


class InputEmbedding(eqx.Module):
    """Patches of a continuous input, or tokens and the context beside them, as vectors (B, T, D)."""

    patches: Linear | None
    tokens: Embedding | None
    context: Embedding | None
    patch: int = eqx.field(static=True)

    def __init__(self, spec: NetworkSpec) -> None:
        self.patch, width, data = spec.architecture.patch, spec.architecture.width, spec.data
        continuous = data.kind == "continuous"
        self.patches = Linear(spec.patch_values, width) if continuous else None
        self.tokens = None if continuous else Embedding(data.vocabulary + 1, width)  # the last row is the mask
        self.context = Embedding(data.context_vocabulary, width) if data.context_vocabulary else None

    def __call__(self, inputs: Array, context: Array | None) -> Array:
        if self.patches is not None:
            items, rows, columns, channels = inputs.shape
            side = self.patch
            cells = inputs.reshape(items, rows // side, side, columns // side, side, channels).swapaxes(2, 3)
            x = self.patches(cells.reshape(items, -1, side * side * channels))  # (B, T, D)
        else:
            assert self.tokens is not None
            x = self.tokens(inputs)
        if self.context is None:
            return x
        if context is None:
            raise ValueError("network: this dataset has context tokens, given context None")
        return x + self.context(context)


class Condition(eqx.Module):
    """Label and log-SNR as one vector (B, D); zeros where there is neither."""

    labels: Embedding | None
    log_snr_in: Linear | None
    log_snr_out: Linear | None
    width: int = eqx.field(static=True)

    def __init__(self, spec: NetworkSpec) -> None:
        self.width = width = spec.architecture.width
        classes = spec.data.classes
        self.labels = Embedding(classes + 1, width) if classes else None  # the last row is the null label
        self.log_snr_in = Linear(width, width) if spec.timed else None
        self.log_snr_out = Linear(width, width) if spec.timed else None

    def __call__(self, labels: Array, log_snr: Array | None) -> Array:
        vector = jnp.zeros((len(labels), self.width)) if self.labels is None else self.labels(labels)
        if self.log_snr_in is None or self.log_snr_out is None:
            return vector
        if log_snr is None:
            raise ValueError("network: this task has a noise level, given log_snr None")
        waves = _waves(log_snr[:, None] * positions.log_snr_frequencies(self.width))  # (B, D)
        return vector + self.log_snr_out(jax.nn.silu(self.log_snr_in(waves)))


class Network(eqx.Module):
    """A looped, unique-depth, universal or equilibrium transformer with exits at its loops.

    Its parameters are blank until `initialise` draws them; names and shapes are those of the torch room, and so is the
    meaning of the arguments. Inside, the state is (B, P + T, D) with P = 1 where a prefix token carries the condition
    (block "bert").
    """

    embedding: InputEmbedding
    condition: Condition
    injection: Linear | None
    blocks: tuple[DiTBlock | BertBlock, ...]
    head: Head
    halting: Halting | None
    adapters: tuple[Adapters, ...]  # one a layer, or none; last, so that the others are drawn as without them
    prelude: tuple[DiTBlock | BertBlock, ...]
    coda: tuple[DiTBlock | BertBlock, ...]
    solver: Solver | None = eqx.field(static=True)  # at equilibrium depth
    spec: NetworkSpec = eqx.field(static=True)

    def __init__(self, spec: NetworkSpec, *, solver: Solver | None = None) -> None:
        self.spec, architecture = spec, spec.architecture
        self.solver = (solver or Solver()) if spec.depth == "equilibrium" else None
        width, modulated = architecture.width, architecture.block == "dit"
        self.embedding = InputEmbedding(spec)
        self.condition = Condition(spec)
        self.injection = Linear(width, width) if architecture.input_injection else None
        self.blocks = tuple(block_of(spec) for _ in range(architecture.unique_layers))
        self.head = Head(width, spec.outputs, modulated=modulated)
        self.halting = Halting(width) if spec.depth == "universal" else None
        layers = range(architecture.unique_layers if architecture.loop_adapter_rank else 0)
        self.adapters = tuple(Adapters(spec) for _ in layers)
        self.prelude, self.coda = (
            tuple(block_of(spec.unlooped) for _ in range(count)) for count in (architecture.prelude, architecture.coda)
        )

    @property
    def prefix(self) -> int:
        """P, the tokens before those of the grid."""
        return self.spec.prefix

    def train(
        self,
        batch: Batch,
        exits: Array,
        fields: tuple[str, ...],
        *,
        loops: int,
        unroll: bool = False,
        since: Array | None = None,
    ) -> list[ExitOutput]:
        """One output per exit (E,) from a scan of `loops` loops, which may be unrolled: longer to compile.

        The state after loop `since`, where that is given and not 0, is constant to differentiation.
        """
        begun, conditioning = self.begin(batch)
        scanned = self, begun, conditioning
        network, carry, shared = scanned if self.solver is None else lax.stop_gradient(scanned)

        def body(carry: Carry, index: Array) -> tuple[Carry, Reading]:
            if since is not None:
                constant = lax.stop_gradient(carry.state)
                carry = carry._replace(state=jnp.where((since > 0) & (index == since + 1), constant, carry.state))
            return network.advance(carry, shared, index, fields)

        _, readings = lax.scan(body, carry, jnp.arange(1, loops + 1), unroll=unroll)
        readings = jax.tree.map(lambda stacked: stacked[exits - 1], readings)
        if self.solver is not None:  # whose readings are states
            function = jax.vmap(lambda state: self.loop(state, conditioning, jnp.int32(1)))
            readings = jax.tree.map(partial(phantom_gradient, self.solver, function), readings)
        return self._outputs(readings, conditioning, len(exits))

    def infer(self, batch: Batch, exits: Array, fields: tuple[str, ...]) -> list[ExitOutput]:
        """One output per exit (E,) from as many loops as the last one says; cannot be differentiated backwards."""
        carry, conditioning = self.begin(batch)

        def body(index: Array, carried: tuple[Carry, Reading]) -> tuple[Carry, Reading]:
            carry, kept = carried
            carry, reading = self.advance(carry, conditioning, index, fields)
            slot = jnp.sum(exits < index)  # of the next exit: what stays there is what its own loop writes last
            return carry, jax.tree.map(lambda buffer, value: buffer.at[slot].set(value), kept, reading)

        _, reading = jax.eval_shape(lambda: self.advance(carry, conditioning, jnp.int32(1), fields))
        kept = jax.tree.map(lambda place: jnp.zeros((len(exits), *place.shape), place.dtype), reading)
        _, kept = lax.fori_loop(1, exits[-1] + 1, body, (carry, kept))
        return self._outputs(kept, conditioning, len(exits))

    def embed(
        self, inputs: Array, labels: Array, context: Array | None, log_snr: Array | None, dropped: Array | None = None
    ) -> tuple[Array, Conditioning]:
        """The state before the first loop (B, P + T, D), behind the prelude, and what all loops share."""
        architecture, vector = self.spec.architecture, self.condition(labels, log_snr)  # (B, D)
        state = self.embedding(inputs, context).astype(jnp.float32)
        if architecture.positions == "sinusoidal":
            state = state + positions.grid_positions(self.spec.grid, architecture.width)
        if self.prefix:
            state = jnp.concat([vector[:, None], state], axis=1)  # (B, 1 + T, D)
        activated = jax.nn.silu(vector)
        kept = None if dropped is None else jnp.where(dropped, 0.0, kept_scale(architecture))
        state = self._through(self.prelude, state, modulations(self.prelude, activated), kept, 0)
        blocks = None if architecture.loop_conditioning else modulations(self.blocks, activated)
        injected = None if self.injection is None else self.injection(state)
        coda, head = modulations(self.coda, activated), self.head.modulate(activated)
        return state, Conditioning(vector, blocks, coda, head, injected, kept)

    def loop(self, state: Array, conditioning: Conditioning, index: Array) -> Array:
        """The state (B, P + T, D) after loop `index` (1 is the first), given the state before it.

        At equilibrium depth this is the map whose fixed point is sought (see the torch room).
        """
        architecture, blocks, injected = self.spec.architecture, conditioning.blocks, conditioning.injected
        inside = architecture.recall == "inside"
        if injected is not None and not inside:
            always = self.spec.depth == "equilibrium"
            state = state + (injected if always else jnp.where(index > 1, injected, 0))
        loop_vector = _waves(index * positions.index_frequencies(architecture.width))  # (D,)
        if architecture.loop_embedding or self.spec.depth == "universal":
            state = state + loop_vector
        if blocks is None:
            blocks = modulations(self.blocks, jax.nn.silu(conditioning.vector + loop_vector))
            if self.prefix:  # without modulation the loop index enters through the token that carries the condition
                state = state.at[:, :1].add(loop_vector)
        updates = [adapters.at(index) for adapters in self.adapters]
        recalled, first = injected if inside else None, len(self.prelude)
        state = self._through(self.blocks, state, blocks, conditioning.kept, first, updates, recalled)
        return LayerNorm(architecture.width, affine=False)(state) if self.spec.normed else state

    def read(self, state: Array, conditioning: Conditioning) -> Array:
        """The predictions (..., B, H, W, C) or (..., B, T, vocabulary) of coda and head from states (..., B, P + T, D).

        At universal depth an exit reads the halting's weighted mean of states, not the state itself.
        """

        def through(state: Array) -> Array:
            first = len(self.prelude) + len(self.blocks)
            return self._through(self.coda, state, conditioning.coda, conditioning.kept, first)

        for _ in state.shape[:-3] if self.coda else ():
            through = jax.vmap(through)
        x = self.head(through(state)[..., self.prefix :, :], conditioning.head)  # (..., B, T, outputs)
        if self.spec.data.kind == "tokens":
            return x
        side, (rows, columns) = self.spec.architecture.patch, self.spec.grid
        x = x.reshape(*x.shape[:-2], rows, columns, side, side, -1).swapaxes(-4, -3)  # (..., B, h, p, w, p, C)
        return x.reshape(*x.shape[:-5], rows * side, columns * side, -1)

    def begin(self, batch: Batch) -> tuple[Carry, Conditioning]:
        """What goes into the first loop, and what all loops share."""
        state, conditioning = self.embed(*batch.given, batch.dropped)
        tally = None if self.halting is None else self.halting.start(state)
        return Carry(state, tally, None if self.solver is None else self.solver.start(state)), conditioning

    def advance(
        self, carry: Carry, conditioning: Conditioning, index: Array, fields: tuple[str, ...]
    ) -> tuple[Carry, Reading]:
        """Loop `index` (1 is the first), and what the exit there takes from it for the named fields of its output."""
        state, tally, history = self.loop(carry.state, conditioning, index), carry.tally, carry.history
        if self.solver is not None and history is not None:
            state, history = self.solver.step(history, carry.state, state, index)
        read, ponder, unhalted = state, None, None
        if self.halting is not None and tally is not None:
            read, ponder = self.halting.output(tally, state), self.halting.ponder(tally)[:, self.prefix :]
            tally = self.halting.advance(tally, state)
            unhalted = self.halting.unhalted(tally)[:, self.prefix :]
        return Carry(state, tally, history), Reading(
            read if "prediction" in fields else None,
            state if "state" in fields else None,
            ponder if "ponder" in fields else None,
            unhalted if "unhalted" in fields else None,
        )

    def output(self, reading: Reading, conditioning: Conditioning) -> ExitOutput:
        """What an exit gives, predictions in float32; or several exits at once, (E, …) for (E, …)."""
        prediction = None if reading.read is None else self.read(reading.read, conditioning).astype(jnp.float32)
        state = None if reading.state is None else reading.state[..., self.prefix :, :]  # (…, B, T, D)
        return ExitOutput(prediction, state, *reading[2:])

    def _outputs(self, readings: Reading, conditioning: Conditioning, exits: int) -> list[ExitOutput]:
        """The head on all exits' states at once."""
        together = self.output(readings, conditioning)
        return [jax.tree.map(lambda field, exit=exit: field[exit], together) for exit in range(exits)]

    def _through(
        self,
        layers: tuple[DiTBlock | BertBlock, ...],
        state: Array,
        modulated: Sequence[Modulation],
        kept: Array | None,
        first: int,
        updates: Sequence[Updates] = (),
        recalled: Array | None = None,
    ) -> Array:
        """The state (B, P + T, D) after these layers, of which `first` is the place of the first among all."""
        radius = self.spec.architecture.attention_radius
        mask = None if radius is None else jnp.asarray(positions.visible(self.spec.grid, radius, self.prefix))
        for place, (layer, modulation, update) in enumerate(
            zip(layers, modulated, updates or [PLAIN] * len(layers), strict=True), first
        ):
            state = layer(state, modulation, mask, update, None if kept is None else kept[:, place], recalled)
        return state


def modulations(layers: tuple[DiTBlock | BertBlock, ...], activated: Array) -> tuple[Modulation, ...]:
    """The modulation of each layer from the activated condition (B, D)."""
    return tuple(layer.modulate(activated) for layer in layers)


def in_precision(network: Network, precision: str) -> Network:
    """The network whose matrix products are in this precision ("fp32" or "bf16"); norms and sums stay in float32."""
    if precision == "fp32":
        return network

    def maps(module: Tree) -> bool:
        return isinstance(module, Linear | Stack)

    def cast(module: Tree) -> Tree:
        return jax.tree.map(lambda array: array.astype(jnp.bfloat16), module) if maps(module) else module

    return jax.tree.map(cast, network, is_leaf=maps)


def _waves(angles: Array) -> Array:
    return jnp.concat([jnp.sin(angles), jnp.cos(angles)], axis=-1)
