"""The roofline: how fast a network call can be on a machine, from ceilings that were measured on it.

A matrix product of m vectors with a weight of k × n does 2·m·k·n FLOPs, reads k·n weights and m·k activations and
writes m·n. By the textbook, which takes arithmetic and transfers to overlap,

    seconds ≥ max(FLOPs / rate, bytes / bandwidth, launch)

The bandwidth is that of a long read at the **working set**: all that is read before the same weights come again. A
unique-depth network reads all its layers in between, a looped one only its N shared layers; where these fit into the
last cache and all layers do not, looping gains up to the ratio of the bandwidths, and elsewhere nothing.

Small products wait for most of their weights. So each is also timed at its very shape, its weights taken in turn from
sets of growing size, between which the time at the working set is read off. `predict` gives both: `seconds` by products
in their places, `roofline` by the textbook. Norms, nonlinearities and sums are left out: the textbook's is a floor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from eltbench.accounting import BYTES, NetworkSpec, check_call, peak_bytes
from eltbench.core.config import Architecture

WAITING = 1.1  # times what a product takes with its weight at hand, above which it is said to wait for memory


class Shape(NamedTuple):
    """A matrix product (vectors × inputs) · (inputs × outputs), or with `heads` attention among `vectors` tokens.

    Attention is of `items` sequences; its width is `inputs`, its `outputs` are as many.
    """

    vectors: int
    inputs: int
    outputs: int
    heads: int = 0
    items: int = 1

    @property
    def flops(self) -> int:
        """2·MACs; attention has two products among all pairs of tokens."""
        pairs = 4 * self.items * self.vectors**2 * self.inputs
        return pairs if self.heads else 2 * self.vectors * self.inputs * self.outputs


class Kernel(NamedTuple):
    """One kind of product of a call: its shape, how often it runs, and whether every loop reads its weights anew."""

    part: str
    shape: Shape
    times: int
    looped: bool  # its weights belong to the block

    @property
    def weights(self) -> int:
        """Values of the weight and its bias; attention has none."""
        return 0 if self.shape.heads else (self.shape.inputs + 1) * self.shape.outputs

    @property
    def activations(self) -> int:
        """Values that the product reads beside its weight, and writes; attention has four as large as its input."""
        if self.shape.heads:
            return 4 * self.shape.items * self.shape.vectors * self.shape.inputs
        return self.shape.vectors * (self.shape.inputs + self.shape.outputs)


def kernels(network: NetworkSpec, loops: int, batch: int = 1, *, hoisted: bool = True) -> list[Kernel]:
    """The matrix products of one call on `batch` items that reads one exit; their FLOPs add up to `accounting.flops`.

    hoisted: the modulation is made once a call, not in every loop (which those FLOPs do not count). Raises ValueError
    for an impossible call, and where there are products that are not timed here: input injection, loop conditioning,
    loop adapters, prelude and coda, universal and equilibrium depth.
    """
    check_call(network, loops, batch=batch)
    architecture, depth = network.architecture, network.depth
    plain = architecture.loop_conditioning or architecture.loop_adapter_rank or architecture.input_injection
    plain = plain or architecture.prelude or architecture.coda
    if depth not in ("looped", "unique") or plain:
        raise ValueError(f"a roofline is drawn for plain looped and unique-depth networks, given {depth} with {plain}")
    d, layers, hidden = architecture.width, architecture.unique_layers, architecture.mlp_ratio * architecture.width
    tokens, length = network.tokens, network.length
    passes, vectors = loops * layers, batch * length
    found = [
        Kernel("queries, keys, values", Shape(vectors, d, 3 * d), passes, True),
        Kernel("attention", Shape(length, d, d, architecture.heads, batch), passes, True),
        Kernel("projection", Shape(vectors, d, d), passes, True),
        Kernel("expansion", Shape(vectors, d, hidden), passes, True),
        Kernel("contraction", Shape(vectors, hidden, d), passes, True),
        Kernel("head", Shape(batch * tokens, d, network.outputs), 1, False),
    ]
    if network.data.kind == "continuous":
        found.append(Kernel("embedding", Shape(batch * tokens, network.patch_values, d), 1, False))
    if network.timed:
        found.append(Kernel("noise level", Shape(batch, d, d), 2, False))
    if architecture.block == "dit":
        found.append(Kernel("modulation", Shape(batch, d, 6 * d), layers if hoisted else passes, not hoisted))
        found.append(Kernel("modulation of the head", Shape(batch, d, 2 * d), 1, False))
    return found


def block_bytes(architecture: Architecture, precision: str = "fp32") -> int:
    """Bytes of the weights that every loop reads: N layers without their modulation."""
    d, hidden = architecture.width, architecture.mlp_ratio * architecture.width
    layer = (d + 1) * 4 * d + (d + 1) * hidden + (hidden + 1) * d
    return BYTES[precision] * architecture.unique_layers * layer


Ladder = Sequence[tuple[int, float]]
"""Rates by the size in bytes of what is read in turn, in ascending order of size."""


@dataclass(frozen=True)
class Ceilings:
    """What a machine can do at most, as measured on it; all sizes in bytes, all rates per second.

    rates: FLOPs by precision and shape, with weights taken in turn from a set of that size, the first of one weight
    alone. peaks: FLOPs of a large square product by precision. read, copy: bandwidth by the size of the set (read and
    written bytes counted). caches: size by name, the last level last; empty where unknown. matmul: how float32 products
    were computed.
    """

    device: str
    name: str
    threads: int
    memory: int
    launch: float
    peaks: Mapping[str, float]
    rates: Mapping[str, Mapping[Shape, Ladder]]
    read: Ladder
    copy: Ladder
    caches: Mapping[str, int] = field(default_factory=dict)
    matmul: str = ""

    @property
    def cache(self) -> int | None:
        """Bytes of the last level of cache, the one that decides whether weights have to come from memory."""
        return list(self.caches.values())[-1] if self.caches else None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `ceilings_from_dict` is the inverse."""
        rates = {name: [[*shape, ladder] for shape, ladder in its.items()] for name, its in self.rates.items()}
        return {**asdict(self), "rates": rates}


def ceilings_from_dict(values: Mapping[str, Any]) -> Ceilings:
    """The ceilings that `Ceilings.to_dict` wrote."""
    rates = {name: {Shape(*shape): _steps(ladder) for *shape, ladder in its} for name, its in values["rates"].items()}
    return Ceilings(**{**values, "rates": rates, **{name: _steps(values[name]) for name in ("read", "copy")}})


def _steps(ladder: Sequence[Sequence[float]]) -> Ladder:
    return [(int(size), float(rate)) for size, rate in ladder]


def rate_at(ladder: Ladder, working_set: float) -> float:
    """The rate at a working set, between the two nearest sizes on logarithmic scales, level beyond the ends.

    Raises ValueError for an empty ladder.
    """
    if not ladder:
        raise ValueError("rate_at: the ladder of measured sizes is empty")
    below = [step for step in ladder if step[0] <= working_set] or [ladder[0]]
    above = [step for step in ladder if step[0] >= working_set] or [ladder[-1]]
    (low, slow), (high, fast) = below[-1], above[0]
    if low >= high:
        return slow
    share = math.log(working_set / low) / math.log(high / low)
    return math.exp((1 - share) * math.log(slow) + share * math.log(fast))


class Predicted(NamedTuple):
    """One kernel of a call: seconds of all its runs in its place, what decides them, and the textbook's roofline."""

    kernel: Kernel
    seconds: float
    bound: str  # launch; memory, where it waits for its weights; compute
    roofline: float


def predict(
    ceilings: Ceilings,
    network: NetworkSpec,
    loops: int,
    batch: int = 1,
    precision: str = "fp32",
    *,
    launch: bool = True,
    hoisted: bool = True,
) -> list[Predicted]:
    """The time of every kernel of a call that is repeated over and over; their sum is the call's, without the rest.

    launch: whether each kernel is launched by itself, as it is outside a captured graph. hoisted: whether the
    modulation is made once a call. Raises ValueError for a shape whose rate was not measured, and as `kernels` does.
    """
    width = BYTES[precision]
    found = kernels(network, loops, batch, hoisted=hoisted)
    alive = peak_bytes(network, loops, batch)  # in fp32: no less than in any precision
    block = sum(width * each.weights * each.times for each in found if each.looped) // loops
    once = sum(width * each.weights * each.times for each in found if not each.looped)
    between_loops, between_calls = block + alive, block + once + alive

    def predicted(kernel: Kernel) -> Predicted:
        ladder = ceilings.rates.get(precision, {}).get(kernel.shape)
        if ladder is None:
            raise ValueError(f"no rate was measured for {kernel.shape} in {precision}")
        again = (loops - 1) / loops if kernel.looped else 0.0  # the first loop of a call follows the call before

        def mean(seconds: Callable[[float], float]) -> float:
            return again * seconds(between_loops) + (1 - again) * seconds(between_calls)

        at_hand = kernel.shape.flops / ladder[0][1]
        in_place = mean(lambda working_set: kernel.shape.flops / rate_at(ladder, working_set))
        moved = width * (kernel.weights + kernel.activations)
        arriving = mean(lambda working_set: moved / rate_at(ceilings.read, working_set))
        least = ceilings.launch if launch else 0.0
        waits = in_place > WAITING * at_hand or width * kernel.weights > (ceilings.cache or math.inf)
        bound = "launch" if least > in_place else "memory" if waits else "compute"
        times = kernel.times
        return Predicted(kernel, times * max(in_place, least), bound, times * max(at_hand, arriving, least))

    return [predicted(kernel) for kernel in found]
