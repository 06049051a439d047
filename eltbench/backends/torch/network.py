"""The network: N unique layers applied L times, read at any of the loops.

A call is made of three steps that a pass taken loop by loop uses one by one:

    carry, conditioning = network.begin(inputs, labels, context, log_snr)
    carry = network.advance(carry, conditioning, index)  # index = 1, 2, …
    output = network.output(carry, conditioning, fields)

and these of `embed`, `loop` and `read`, which know of states alone and which convergence diagnostics use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eltbench.accounting import NetworkSpec
from eltbench.backends import positions
from eltbench.backends.adapters import PLAIN, Updates
from eltbench.backends.base import check_exits
from eltbench.backends.dropout import kept_scale
from eltbench.backends.steps import Carry, Conditioning
from eltbench.backends.torch.adapters import Adapters
from eltbench.backends.torch.blocks import Head, Modulation, block_of
from eltbench.backends.torch.equilibrium import phantom_gradient
from eltbench.backends.torch.halting import Halting
from eltbench.backends.torch.initialisation import initialise
from eltbench.core.fixed_point import Solver
from eltbench.tasks.base import ExitOutput


class Embedding(nn.Module):
    """Patches of a continuous input, or tokens and the context beside them, as vectors (B, T, D)."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.patch, width, data = spec.architecture.patch, spec.architecture.width, spec.data
        if data.kind == "continuous":
            self.patches = nn.Linear(spec.patch_values, width)
        else:
            self.tokens = nn.Embedding(data.vocabulary + 1, width)  # the last row is the mask
        self.context = nn.Embedding(data.context_vocabulary, width) if data.context_vocabulary else None

    def forward(self, inputs: Tensor, context: Tensor | None) -> Tensor:
        if inputs.ndim == 4:
            cells = inputs.unflatten(2, (-1, self.patch)).unflatten(1, (-1, self.patch))  # (B, h, p, w, p, C)
            x = self.patches(cells.transpose(2, 3).flatten(3).flatten(1, 2))  # (B, T, D)
        else:
            x = self.tokens(inputs)
        if self.context is None:
            return x
        if context is None:
            raise ValueError("network: this dataset has context tokens, given context None")
        return x + self.context(context)


class Condition(nn.Module):
    """Label and log-SNR as one vector (B, D); zeros where there is neither."""

    frequencies: Tensor

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.timed, width, classes = spec.timed, spec.architecture.width, spec.data.classes
        self.labels = nn.Embedding(classes + 1, width) if classes else None  # the last row is the null label
        if self.timed:
            self.log_snr_in = nn.Linear(width, width)
            self.log_snr_out = nn.Linear(width, width)
        self.register_buffer("frequencies", torch.tensor(positions.log_snr_frequencies(width)), persistent=False)

    def forward(self, labels: Tensor, log_snr: Tensor | None) -> Tensor:
        vector = self.labels(labels) if self.labels is not None else None
        if self.timed:
            if log_snr is None:
                raise ValueError("network: this task has a noise level, given log_snr None")
            angles = log_snr.unsqueeze(-1) * self.frequencies  # (B, D / 2)
            waves = torch.cat([angles.sin(), angles.cos()], dim=-1)  # (B, D)
            timing = self.log_snr_out(F.silu(self.log_snr_in(waves)))
            vector = timing if vector is None else vector + timing
        return self.frequencies.new_zeros(len(labels), 2 * len(self.frequencies)) if vector is None else vector


class Network(nn.Module):
    """A looped, unique-depth, universal or equilibrium transformer with exits at its loops.

    See arXiv 2604.09168, 1807.03819 and 1909.01377. All weights are drawn from `generator` (torch's global one if
    None); `solver` seeks the fixed point at equilibrium depth (plainly if None). The state is (B, P + T, D), with P = 1
    where a prefix token carries the condition (block "bert"). The parameter count does not depend on `max_loops` (but
    for loop adapters), and any number of loops can be run.
    """

    positions: Tensor | None  # (T, D), added to the input
    frequencies: Tensor  # (D / 2,), of the loop index
    mask: Tensor | None  # (P + T, P + T)

    def __init__(
        self, spec: NetworkSpec, *, generator: torch.Generator | None = None, solver: Solver | None = None
    ) -> None:
        super().__init__()
        self.spec, self.architecture, self.depth = spec, spec.architecture, spec.depth
        self.solver = (solver or Solver()) if spec.depth == "equilibrium" else None
        self.prefix = spec.prefix  # P
        architecture, width, modulated = spec.architecture, spec.architecture.width, spec.architecture.block == "dit"

        self.embedding = Embedding(spec)
        self.condition = Condition(spec)
        self.injection = nn.Linear(width, width) if architecture.input_injection else None
        self.blocks = nn.ModuleList(block_of(spec) for _ in range(architecture.unique_layers))
        self.head = Head(width, spec.outputs, modulated=modulated)
        self.halting = Halting(width) if spec.depth == "universal" else None
        layers = range(architecture.unique_layers if architecture.loop_adapter_rank else 0)
        self.adapters = nn.ModuleList(Adapters(spec) for _ in layers)  # last: the others draw as without them
        self.prelude, self.coda = (
            nn.ModuleList(block_of(spec.unlooped) for _ in range(count))
            for count in (architecture.prelude, architecture.coda)
        )

        radius, rotary = architecture.attention_radius, architecture.positions == "rotary"
        mask = None if radius is None else torch.tensor(positions.visible(self.spec.grid, radius, self.prefix))
        places = None if rotary else torch.tensor(positions.grid_positions(self.spec.grid, width))
        self.register_buffer("positions", places, persistent=False)
        self.register_buffer("frequencies", torch.tensor(positions.index_frequencies(width)), persistent=False)
        self.register_buffer("mask", mask, persistent=False)
        initialise(self, generator, zero_head=spec.data.kind == "continuous")

    def forward(
        self,
        inputs: Tensor,
        labels: Tensor,
        context: Tensor | None,
        log_snr: Tensor | None,
        exits: Sequence[int],
        fields: tuple[str, ...] = ("prediction",),
        dropped: Tensor | None = None,
        since: int | None = None,
    ) -> list[ExitOutput]:
        """One output per exit, from one run of loops 1 … exits[-1]; the head is read at the exits only.

        inputs (B, H, W, C) or (B, T), labels (B,), context (B, T), log_snr (B,), dropped (B, M, 2, P + T, D). The state
        after loop `since` is constant to differentiation (None, 0: none is). Of
        ExitOutput's fields only those named are filled; `ponder` and `unhalted` only at universal depth. Raises
        ValueError for exits that are not strictly increasing from 1 on, or lie beyond a unique-depth network, for
        unknown fields, and for masks of dropout where the architecture has none.
        """
        exits = check_exits(exits, deepest=self.spec.last_exit)
        if unknown := set(fields) - set(ExitOutput._fields):
            raise ValueError(f"network: fields must be among {ExitOutput._fields}, given {sorted(unknown)}")
        carry, conditioning = self.begin(inputs, labels, context, log_snr, dropped)
        outputs = []
        for index in range(1, exits[-1] + 1):
            carry = self.advance(carry, conditioning, index)
            if index in exits:
                outputs.append(self.output(carry, conditioning, fields))
            if index == since:
                carry = carry._replace(state=carry.state.detach())
        return outputs

    def begin(
        self,
        inputs: Tensor,
        labels: Tensor,
        context: Tensor | None,
        log_snr: Tensor | None,
        dropped: Tensor | None = None,
    ) -> tuple[Carry, Conditioning]:
        """What goes into the first loop, and what all loops share."""
        state, conditioning = self.embed(inputs, labels, context, log_snr, dropped)
        tally = None if self.halting is None else self.halting.start(state)
        return Carry(state, tally, None if self.solver is None else self.solver.start(state)), conditioning

    def advance(self, carry: Carry, conditioning: Conditioning, index: int) -> Carry:
        """What comes out of loop `index` (1 is the first); at equilibrium depth constant to differentiation."""
        state, tally, history = carry
        if self.halting is not None and tally is not None and index > 1:  # it counts the loops before this one
            tally = self.halting.advance(tally, state)
        if self.solver is None or history is None:
            return Carry(self.loop(state, conditioning, index), tally, None)
        with torch.no_grad():
            state, history = self.solver.step(history, state, self.loop(state, conditioning, index), index)
        return Carry(state, tally, history)

    def output(self, carry: Carry, conditioning: Conditioning, fields: tuple[str, ...]) -> ExitOutput:
        """The named fields of the exit after the loop that `carry` comes out of."""
        state, tally, _ = carry
        prediction = ponder = unhalted = None
        if self.solver is not None:
            torch.clear_autocast_cache()  # torch 2.6 would take bf16 weights of the loops, which have no gradient
            state = phantom_gradient(self.solver, lambda point: self.loop(point, conditioning, 1), state)
        if "prediction" in fields:
            halted = state if self.halting is None or tally is None else self.halting.output(tally, state)
            prediction = self.read(halted, conditioning)
        if "ponder" in fields and self.halting is not None and tally is not None:
            ponder = self.halting.ponder(tally)[:, self.prefix :]  # (B, T)
        if "unhalted" in fields and self.halting is not None and tally is not None:
            unhalted = self.halting.unhalted(self.halting.advance(tally, state))[:, self.prefix :]  # (B, T)
        return ExitOutput(prediction, state[:, self.prefix :] if "state" in fields else None, ponder, unhalted)

    def embed(
        self,
        inputs: Tensor,
        labels: Tensor,
        context: Tensor | None,
        log_snr: Tensor | None,
        dropped: Tensor | None = None,
    ) -> tuple[Tensor, Conditioning]:
        """The state before the first loop (B, P + T, D), behind the prelude, and what all loops share."""
        vector = self.condition(labels, log_snr)  # (B, D)
        state = self.embedding(inputs, context).to(self.frequencies.dtype)  # (B, T, D), not in autocast's bf16
        state = state if self.positions is None else state + self.positions
        if self.prefix:
            state = torch.cat([vector.unsqueeze(1).to(state.dtype), state], dim=1)  # (B, 1 + T, D)
        activated = F.silu(vector)
        kept = None if dropped is None else (~dropped).float() * kept_scale(self.architecture)
        state = self._through(self.prelude, state, modulations(self.prelude, activated), kept, 0)
        blocks = None if self.architecture.loop_conditioning else modulations(self.blocks, activated)
        injected = None if self.injection is None else self.injection(state)
        coda, head = modulations(self.coda, activated), self.head.modulate(activated)
        return state, Conditioning(vector, blocks, coda, head, injected, kept)

    def loop(self, state: Tensor, conditioning: Conditioning, index: int) -> Tensor:
        """The state (B, P + T, D) after loop `index` (1 is the first), given the state before it.

        At equilibrium depth this is the map whose fixed point is sought, the same for every index: it ends in a norm,
        which keeps the state bounded, so that there is a fixed point (Brouwer) and the solver finds it.
        """
        architecture, blocks, injected = self.architecture, conditioning.blocks, conditioning.injected
        inside = architecture.recall == "inside"
        if injected is not None and not inside and (index > 1 or self.depth == "equilibrium"):
            state = state + injected
        if architecture.loop_embedding or self.depth == "universal":
            state = state + self.loop_vector(index)
        if blocks is None:
            blocks = modulations(self.blocks, F.silu(conditioning.vector + self.loop_vector(index)))
            if self.prefix:  # without modulation the loop index enters through the token that carries the condition
                state = torch.cat([state[:, :1] + self.loop_vector(index), state[:, 1:]], dim=1)
        updates = [adapters.at(index) for adapters in self.adapters]  # type: ignore[operator]
        recalled, first = injected if inside else None, len(self.prelude)
        state = self._through(self.blocks, state, blocks, conditioning.kept, first, updates, recalled)
        return F.layer_norm(state, state.shape[-1:], eps=1e-6) if self.spec.normed else state

    def read(self, state: Tensor, conditioning: Conditioning) -> Tensor:
        """The prediction (B, H, W, C) or (B, T, vocabulary) of coda and head from a state (B, P + T, D).

        At universal depth an exit reads the halting's weighted mean of states, not the state itself.
        """
        first = len(self.prelude) + len(self.blocks)
        state = self._through(self.coda, state, conditioning.coda, conditioning.kept, first)
        x = self.head(state[:, self.prefix :], conditioning.head)  # (B, T, outputs)
        if self.spec.data.kind == "tokens":
            return x
        patch = self.architecture.patch
        x = x.unflatten(2, (patch, patch, -1)).unflatten(1, self.spec.grid)  # (B, h, w, p, p, C)
        return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)  # (B, H, W, C)

    def loop_vector(self, index: int) -> Tensor:
        """The sinusoidal embedding (D,) of a loop index."""
        angles = self.frequencies * index
        return torch.cat([angles.sin(), angles.cos()])

    def compile_block(self, backend: str | Callable[..., Any] = "inductor") -> None:
        """Compile the blocks in place, names kept; the loop stays eager, so a new loop count never recompiles."""
        for block in (*self.prelude, *self.blocks, *self.coda):
            block.compile(backend=backend)

    def _through(
        self,
        layers: nn.ModuleList,
        state: Tensor,
        modulated: Sequence[Modulation],
        kept: Tensor | None,
        first: int,
        updates: Sequence[Updates] = (),
        recalled: Tensor | None = None,
    ) -> Tensor:
        """The state (B, P + T, D) after these layers, of which `first` is the place of the first among all."""
        for place, (layer, modulation, update) in enumerate(
            zip(layers, modulated, updates or [PLAIN] * len(layers), strict=True), first
        ):
            state = layer(state, modulation, self.mask, update, None if kept is None else kept[:, place], recalled)
        return state


def modulations(layers: nn.ModuleList, activated: Tensor) -> tuple[Modulation, ...]:
    """The modulation of each layer from the activated condition (B, D)."""
    return tuple(layer.modulate(activated) for layer in layers)  # type: ignore[operator]
