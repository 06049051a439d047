"""What a network holds, computes and moves, in closed form: the truth that backends' counters are tested against.

Counted are multiply-accumulates (MACs) of the matrix products of one network call on one item: linear maps, and the
two products of attention (all pairs of tokens, also where an attention radius hides some). Norms, activations, sums
and embedding look-ups are left out, as in torch.utils.flop_counter, and so are the inner products and sums of Anderson
acceleration: with memory m about 4m for each value of the state, where a loop's linear maps take 12·N·width (mlp_ratio
4). FLOPs = 2·MACs. Guidance makes two calls of one.

Bytes moved are what a roofline sets against its two peaks. Every product reads its operands and writes its result once;
attention is one fused product that reads queries, keys and values and writes its output. What lies between products is
taken to be fused into them. No cache keeps an activation from one product to the next.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple, get_args

from eltbench.core.config import Architecture
from eltbench.core.recursion import USUAL, Recursion
from eltbench.data.base import DataSpec

Depth = Literal["looped", "unique", "universal", "equilibrium", "recursive"]
BYTES = {"fp32": 4, "bf16": 2}
PARTS = (
    *("embedding", "injection", "conditioning", "modulation", "layers", "attention", "head", "halting", "adapters"),
    *("prelude", "coda"),
)


@dataclass(frozen=True)
class NetworkSpec:
    """All that decides the form of a network's weights; `timed` says that the task supplies log_snr.

    `recursion` says how often the block runs in a loop at recursive depth; elsewhere it means nothing.

    Raises ValueError for an unknown depth, a unique-depth network with loops or loop adapters, and a patch that does
    not divide the grid.
    """

    architecture: Architecture
    depth: Depth
    data: DataSpec
    timed: bool
    recursion: Recursion = USUAL

    def __post_init__(self) -> None:
        architecture, patch = self.architecture, self.architecture.patch
        if self.depth not in get_args(Depth):
            raise ValueError(f"depth must be one of {', '.join(map(repr, get_args(Depth)))}, given {self.depth!r}")
        if self.depth == "unique" and architecture.max_loops != 1:
            raise ValueError(
                "architecture: a unique-depth network has no loops: expected max_loops 1 and all layers as "
                f"unique_layers, given max_loops {architecture.max_loops}"
            )
        if self.depth == "unique" and architecture.loop_adapter_rank:
            raise ValueError(
                "architecture: a unique-depth network has no loops to adapt: expected loop_adapter_rank 0, given "
                f"loop_adapter_rank {architecture.loop_adapter_rank}"
            )
        if self.depth == "unique" and (architecture.prelude or architecture.coda):
            raise ValueError(
                "architecture: a unique-depth network has no loop to stand before or behind: expected all layers as "
                f"unique_layers, given prelude {architecture.prelude} and coda {architecture.coda}"
            )
        if self.data.kind == "continuous" and any(side % patch for side in self.data.grid):
            raise ValueError(f"architecture: patch must divide the grid {self.data.grid}, given patch {patch}")

    @cached_property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the tokens."""
        patch = self.architecture.patch if self.data.kind == "continuous" else 1
        rows, columns = self.data.grid
        return rows // patch, columns // patch

    @property
    def tokens(self) -> int:
        """Tokens of the grid."""
        return self.grid[0] * self.grid[1]

    @property
    def prefix(self) -> int:
        """1 where a token of its own carries the condition, else 0."""
        conditioned = self.data.classes > 0 or self.timed or self.architecture.loop_conditioning
        return int(conditioned and self.architecture.block != "dit")

    @cached_property
    def unlooped(self) -> NetworkSpec:
        """The network that the layers of prelude and coda are made for."""
        return replace(self, architecture=self.architecture.unlooped)

    @property
    def normed(self) -> bool:
        """Whether the state is normed each time that the block has run; at equilibrium and recursive depth always."""
        return self.architecture.loop_norm or self.depth in ("equilibrium", "recursive")

    @property
    def applications(self) -> int:
        """How often the block runs in a loop: once, but at recursive depth."""
        return self.recursion.applications if self.depth == "recursive" else 1

    @property
    def length(self) -> int:
        """Tokens of the state, the prefix included."""
        return self.tokens + self.prefix

    @property
    def patch_values(self) -> int:
        """Values of a patch of continuous data."""
        return self.architecture.patch**2 * self.data.channels

    @property
    def outputs(self) -> int:
        """Values that the head gives for a token."""
        return self.patch_values if self.data.kind == "continuous" else self.data.vocabulary

    @property
    def maps(self) -> tuple[tuple[int, int], ...]:
        """Inputs and outputs of a layer's linear maps: queries, keys and values; projection; expansion; contraction."""
        width = self.architecture.width
        hidden = self.architecture.mlp_ratio * width
        return (width, 3 * width), (width, width), (width, hidden), (hidden, width)

    @property
    def last_exit(self) -> int | None:
        """The deepest exit that there is: 1 at unique depth, without an end elsewhere."""
        return 1 if self.depth == "unique" else None


class Product(NamedTuple):
    """A matrix product of a call: so many vectors per item, computed `times` times, its weights read `reads` times."""

    part: str
    inputs: int
    outputs: int
    vectors: int
    times: int
    reads: int
    bias: bool = True
    adds: bool = False  # its result is added to another's, which is read too


def check_call(network: NetworkSpec, loops: int, exits: int = 1, batch: int = 1) -> None:
    """Raise ValueError for loops below 1 or beyond a unique-depth network, more exits than loops, and no items."""
    if loops < 1 or loops > (network.last_exit or loops):
        expected = "exactly 1 at unique depth" if network.depth == "unique" else "at least 1"
        raise ValueError(f"loops must be {expected}, given {loops}")
    if not 1 <= exits <= loops:
        raise ValueError(f"exits must be between 1 and the {loops} loops, given {exits}")
    if batch < 1:
        raise ValueError(f"batch must be at least 1, given {batch}")


def parameters(network: NetworkSpec) -> dict[str, int]:
    """Trained values by part: embedding (and injection), block, prelude and coda (modulation included), conditioning,
    head, halting, and the adapters of all loops.
    """
    architecture, data = network.architecture, network.data
    d, layers, rank = architecture.width, architecture.unique_layers, architecture.loop_adapter_rank
    embedding = _linear(network.patch_values, d) if data.kind == "continuous" else (data.vocabulary + 1) * d
    embedding += data.context_vocabulary * d + (_linear(d, d) if architecture.input_injection else 0)
    layer, head = sum(_linear(*each) for each in network.maps), _linear(d, network.outputs)
    if architecture.block == "dit":
        layer, head = layer + _linear(d, 6 * d), head + _linear(d, 2 * d)
    else:
        norms = 4 if architecture.norm == "sandwich" else 2
        layer, head = layer + norms * 2 * d, head + 2 * d
    return {
        "embedding": embedding,
        "block": layers * layer,
        "prelude": architecture.prelude * layer,
        "coda": architecture.coda * layer,
        "conditioning": ((data.classes + 1) * d if data.classes else 0) + (2 * _linear(d, d) if network.timed else 0),
        "head": head,
        "halting": _linear(d, 1) if network.depth in ("universal", "recursive") else 0,
        "adapters": architecture.max_loops * layers * rank * sum(map(sum, network.maps)),
    }


def products(network: NetworkSpec, loops: int, exits: int = 1, *, resident: bool = False) -> list[Product]:
    """The products of a call that runs `loops` loops and reads the head at `exits` of them, attention's left out.

    resident: a cache keeps the block's weights from loop to loop. Modulation is made once per call, or once per loop
    with loop_conditioning. The last loop takes what halting leaves, whatever its probability. The prelude runs once,
    the coda at every exit that is read. At recursive depth the halting logit, which only training and signals read, is
    left out.
    """
    architecture, length = network.architecture, network.length
    d, layers, rank = architecture.width, architecture.unique_layers, architecture.loop_adapter_rank
    passes = layers * loops * network.applications
    reads = layers if resident else passes
    adapted = layers * (min(loops, architecture.max_loops) if resident else loops)
    found = [Product("head", d, network.outputs, network.tokens, exits, exits)]
    unlooped = {"prelude": architecture.prelude, "coda": architecture.coda * exits}
    for inputs, outputs in network.maps:
        found += [Product(part, inputs, outputs, length, times, times) for part, times in unlooped.items()]
        found.append(Product("layers", inputs, outputs, length, passes, reads))
        if rank:
            found.append(Product("adapters", inputs, rank, length, passes, adapted, bias=False))
            found.append(Product("adapters", rank, outputs, length, passes, adapted, bias=False, adds=True))
    if network.data.kind == "continuous":
        found.append(Product("embedding", network.patch_values, d, network.tokens, 1, 1))
    if architecture.input_injection:
        found.append(Product("injection", d, d, length, 1, 1))
    if network.timed:
        found.append(Product("conditioning", d, d, 1, 2, 2))
    if architecture.block == "dit":
        made = (passes if architecture.loop_conditioning else layers) + architecture.prelude + architecture.coda
        found += [Product("modulation", d, 6 * d, 1, made, made), Product("modulation", d, 2 * d, 1, 1, 1)]
    if network.depth == "universal":
        found.append(Product("halting", d, 1, length, loops - 1, loops - 1))
    return found


def macs_by_part(network: NetworkSpec, loops: int, exits: int = 1) -> dict[str, int]:
    """MACs of one call per item by part; `layers` are the block's linear maps, `attention` its products among tokens;
    `prelude` and `coda` are both of these layers.

    Raises ValueError for an impossible call (see `check_call`, `products`).
    """
    check_call(network, loops, exits)
    architecture = network.architecture
    found = dict.fromkeys(PARTS, 0)
    attention = 2 * network.length**2 * architecture.width  # of one layer
    found["attention"] = loops * network.applications * architecture.unique_layers * attention
    found["prelude"], found["coda"] = architecture.prelude * attention, architecture.coda * exits * attention
    for each in products(network, loops, exits):
        found[each.part] += each.inputs * each.outputs * each.vectors * each.times
    return found


def macs(network: NetworkSpec, loops: int, exits: int = 1) -> int:
    """MACs of one call per item that runs `loops` loops and reads the head at `exits` of them (see `macs_by_part`)."""
    return sum(macs_by_part(network, loops, exits).values())


def flops(network: NetworkSpec, loops: int, exits: int = 1) -> int:
    """2·MACs of one call per item."""
    return 2 * macs(network, loops, exits)


def weight_bytes(network: NetworkSpec, precision: str = "fp32") -> int:
    """Bytes of all weights in the precision of the matrix products ("fp32" or "bf16"), each read once."""
    return _bytes(precision) * sum(parameters(network).values())


def moved_bytes(
    network: NetworkSpec, loops: int, exits: int = 1, batch: int = 1, precision: str = "fp32", *, resident: bool = False
) -> dict[str, int]:
    """Bytes of one call on `batch` items, `weights` (biases included) and `activations`, all in `precision`.

    resident: the weights of the block are read once per call and not once per loop, those of a loop's adapters once per
    loop that has its own. Raises ValueError for an impossible call and an unknown precision.
    """
    check_call(network, loops, exits, batch)
    architecture, width = network.architecture, _bytes(precision)
    looped = architecture.unique_layers * loops * network.applications
    attended = architecture.prelude + looped + architecture.coda * exits
    weights, activations = 0, 4 * network.length * architecture.width * attended
    for each in products(network, loops, exits, resident=resident):
        weights += (each.inputs + each.bias) * each.outputs * each.reads
        activations += (each.inputs + (1 + each.adds) * each.outputs) * each.vectors * each.times
    return {"weights": width * weights, "activations": width * batch * activations}


def arithmetic_intensity(
    network: NetworkSpec, loops: int, exits: int = 1, batch: int = 1, precision: str = "fp32", *, resident: bool = False
) -> float:
    """FLOPs per byte moved by one call on `batch` items (see `moved_bytes`)."""
    moved = moved_bytes(network, loops, exits, batch, precision, resident=resident)
    return batch * flops(network, loops, exits) / sum(moved.values())


def _bytes(precision: str) -> int:
    if precision not in BYTES:
        raise ValueError(f"precision must be one of {list(BYTES)}, given {precision!r}")
    return BYTES[precision]


def _linear(inputs: int, outputs: int) -> int:
    return (inputs + 1) * outputs
