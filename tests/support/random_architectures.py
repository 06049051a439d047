"""Architectures, data and calls drawn at random, and a call of the torch network that fits them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from hypothesis import strategies as st

from eltbench.accounting import Depth, NetworkSpec
from eltbench.backends.torch.recursive import network_of
from eltbench.core.config import Architecture
from eltbench.core.fixed_point import FIXED_POINT
from eltbench.core.recursion import ONE_NETWORK, Recursion
from eltbench.data.base import DataSpec
from eltbench.tasks.base import ExitOutput

CONTINUOUS = DataSpec("continuous", (8, 4), channels=3, classes=10)
UNCONDITIONAL = DataSpec("continuous", (4, 4), channels=1)
TOKENS = DataSpec("tokens", (3, 4), vocabulary=11, classes=5)
RELAY = DataSpec("tokens", (2, 6), vocabulary=4, context_vocabulary=6)
ONE_PATCH = DataSpec("continuous", (2, 2), channels=20, classes=3)
ONE_TOKEN = DataSpec("tokens", (1, 1), vocabulary=200, classes=5)
DEPTHS: tuple[Depth, ...] = ("looped", "unique", "universal", "equilibrium", "recursive")
FITTING = {"equilibrium": FIXED_POINT, "recursive": ONE_NETWORK}  # what a depth scheme asks of an architecture

architectures = st.builds(
    lambda heads, quarter, block, norm, **others: Architecture(
        heads=heads,
        width=4 * heads * quarter,
        block="bert" if norm == "post" else block,
        norm=norm,
        **others,
    ),
    heads=st.sampled_from([1, 2, 3]),
    quarter=st.integers(1, 3),
    unique_layers=st.integers(1, 3),
    max_loops=st.just(1),
    mlp_ratio=st.integers(1, 4),
    block=st.sampled_from(["dit", "bert"]),
    patch=st.sampled_from([1, 2]),
    norm=st.sampled_from(["pre", "sandwich", "post"]),
    residual_scale=st.sampled_from(["none", "loops"]),
    input_injection=st.booleans(),
    loop_embedding=st.booleans(),
    loop_conditioning=st.booleans(),
    loop_norm=st.booleans(),
    attention_radius=st.sampled_from([None, 1]),
    positions=st.sampled_from(["sinusoidal", "rotary"]),
)
specs = st.sampled_from([CONTINUOUS, UNCONDITIONAL, TOKENS, RELAY])
all_specs = st.sampled_from([CONTINUOUS, UNCONDITIONAL, TOKENS, RELAY, ONE_PATCH, ONE_TOKEN])


class Call(NamedTuple):
    """One call of one network."""

    architecture: Architecture
    depth: Depth
    spec: DataSpec
    timed: bool
    exits: tuple[int, ...]
    recursion: Recursion = Recursion()

    @property
    def network(self) -> NetworkSpec:
        return NetworkSpec(*self[:4], self.recursion)


@st.composite
def outside_and_inside(draw, architecture: Architecture, depth: Depth) -> Architecture:
    """The architecture with a prelude, a coda and a place of recall, where there is a loop and a recall."""
    if depth == "recursive":
        return architecture
    around = st.integers(0, 0 if depth == "unique" else 2)
    recall = draw(st.sampled_from(["before", "inside"])) if architecture.input_injection else "before"
    return replace(architecture, prelude=draw(around), coda=draw(around), recall=recall)


@st.composite
def calls(draw) -> Call:
    """A network and the exits of one call, one loop at unique depth."""
    depth = draw(st.sampled_from(DEPTHS))
    exits = (1,) if depth == "unique" else tuple(sorted(draw(st.sets(st.integers(1, 5), min_size=1))))
    architecture = draw(architectures)
    recursion = Recursion(draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    if depth in FITTING:
        architecture = replace(architecture, **FITTING[depth])
    elif depth != "unique":
        rank, max_loops = draw(st.sampled_from([0, 0, 1, 3])), draw(st.integers(1, 3))
        architecture = replace(architecture, loop_adapter_rank=rank, max_loops=max_loops)
    architecture = draw(outside_and_inside(architecture, depth))
    patches = max(architecture.patch, 1)
    spec = draw(all_specs.filter(lambda spec: spec.kind == "tokens" or spec.grid[0] % patches == 0))
    return Call(architecture, depth, spec, draw(st.booleans()), exits, recursion)


def prepared(
    call: Call, batch: int, fields: tuple[str, ...] = ("prediction",)
) -> tuple[Callable[[], list[ExitOutput]], list[torch.Tensor]]:
    """The torch network's call on `batch` items of the default device, and all tensors that it is given or holds."""
    spec = call.spec
    network = network_of(call.network)
    continuous = spec.kind == "continuous"
    inputs = torch.zeros(batch, *((*spec.grid, spec.channels) if continuous else (spec.tokens,)))
    inputs = inputs if continuous else inputs.int()
    labels = torch.zeros(batch, dtype=torch.int32)
    context = torch.zeros(batch, spec.tokens, dtype=torch.int32) if spec.context_vocabulary else None
    log_snr = torch.zeros(batch) if call.timed else None
    given = [*network.parameters(), *network.buffers(), inputs, labels, context, log_snr]
    held = [tensor for tensor in given if tensor is not None]
    return partial(network, inputs, labels, context, log_snr, call.exits, fields), held
