"""Bytes of activations, in fp32 and with fused attention: kept by a training step, and needed at once by a call.

Both count storages of torch's eager operations without weights, fixed tables and the batch. XLA may keep less, since it
can compute again.
"""

from __future__ import annotations

from collections.abc import Mapping

from eltbench.accounting.network import NetworkSpec, check_call
from eltbench.core.fixed_point import Solver

FLOAT, BOOL = 4, 1
STATISTICS = 2  # per token that a norm has seen: mean and inverse deviation


def activation_bytes(
    network: NetworkSpec,
    loops: int,
    exits: int = 1,
    batch: int = 1,
    phantom_steps: int = Solver.phantom_steps,
) -> dict[str, int]:
    """Bytes that a training step on `batch` items keeps for its backward pass, by part; it reads `exits` heads.

    Autograd saves inputs of products with weights, of norms and of nonlinearities, both factors of element-wise
    products, and of attention queries, keys, values, output and one log-sum per query and head. What the loss keeps is
    not counted. An attention radius is kept as floats by every layer and loop, whatever the batch (part `mask`). At
    equilibrium depth only the `phantom_steps` after every exit keep anything. ValueError for an impossible call, and at
    recursive depth.
    """
    _check_counted("activation_bytes", network, {"recursive": "latent state"})
    check_call(network, loops, exits, batch)
    architecture, spec, timed = network.architecture, network.data, network.timed
    tokens, length, d = network.tokens, network.length, architecture.width
    state, dit = length * d, architecture.block == "dit"
    universal, equilibrium = network.depth == "universal", network.depth == "equilibrium"
    kept_loops = exits * phantom_steps if equilibrium else loops
    passes = kept_loops * architecture.unique_layers

    layer = state * (8 + 2 * architecture.mlp_ratio) + length * (2 * STATISTICS + architecture.heads)
    if dit:
        layer += 4 * state  # what the modulation scales, and what its gates let through
    if architecture.norm == "sandwich":
        layer += 2 * state + 2 * length * STATISTICS
    if architecture.positions == "rotary":
        layer += 2 * state  # queries and keys as they came, beside the turned ones
    unlooped = architecture.prelude + architecture.coda * exits
    adapters = 4 * length * architecture.loop_adapter_rank  # between the factors of four updates

    # A state is one tensor with the next loop's input, counted above, unless something is added in between.
    before = architecture.recall == "before"
    injects, prefixed = architecture.input_injection and (loops > 1 or equilibrium or not before), bool(network.prefix)
    indexed = universal or architecture.loop_embedding or (architecture.loop_conditioning and prefixed)
    read = exits if indexed or equilibrium or (injects and before) else 1  # by the head
    if universal:  # by the halting and, at the last loop, by the mean over states
        read = loops if loops > 1 else 0
    if injects and (indexed or equilibrium):
        read += 1  # the embedded input
    normed = kept_loops * (state + STATISTICS * length) if network.normed else 0  # at the end of every loop
    if equilibrium and dit and not before:  # the first norm after every exit sees a constant, and has no weights
        normed -= exits * (state + STATISTICS * length)

    modulation = 0
    if dit:
        times = loops if architecture.loop_conditioning else 1
        informed = timed or spec.classes > 0  # then the condition itself is learned
        activations = times + 1 if architecture.loop_conditioning else 1  # of the condition, for blocks and head
        modulation = d * (
            8 * (architecture.unique_layers * times + architecture.prelude + architecture.coda)
            + 1
            + activations * (2 if informed else 1)
        )
    head = exits * tokens * (STATISTICS + (2 * d if dit else d))
    halting = 0
    if universal:
        head += exits * (state + length)
        halting = 2 * FLOAT * length * (loops - 1) + (BOOL * length * loops if loops > 1 else 0)
    patches = tokens * network.patch_values if architecture.patch > 1 and network.grid[1] > 1 else 0
    kept = {
        "embedding": patches if spec.kind == "continuous" else 0,
        "conditioning": 3 * d if timed and (dit or prefixed) else 0,
        "modulation": modulation,
        "layers": (passes + unlooped) * layer + passes * adapters + normed + read * state,
        "head": head,
    }
    mask = 0 if architecture.attention_radius is None else FLOAT * (passes + unlooped) * length**2
    if architecture.dropout:  # its factors, the same in every loop
        kept["dropout"] = 2 * architecture.layers * state
    return {**{part: FLOAT * batch * n for part, n in kept.items()}, "halting": batch * halting, "mask": mask}


def peak_bytes(network: NetworkSpec, loops: int, batch: int = 1) -> int:
    """Bytes alive at once, at most, in an inference call on `batch` items that reads the head after `loops` loops.

    The widest operation is attention (queries, keys, values, output), the MLP's nonlinearity (input and output) or the
    head (input and prediction), and with loop adapters the sum of a map and its update, beside the residual stream and
    what the call carries along. CUDA's allocator rounds up. ValueError for an impossible call, and at equilibrium and
    recursive depth, where a solver's history or a second state comes on top.
    """
    _check_counted("peak_bytes", network, {"equilibrium": "solver's history", "recursive": "latent state"})
    check_call(network, loops, batch=batch)
    architecture, tokens, length = network.architecture, network.tokens, network.length
    d, state = architecture.width, length * architecture.width
    dit, again = architecture.block == "dit", loops > 1

    carried = state  # the residual stream
    spent = 0  # of the first layer's modulation: a scale that is not needed again after its use
    if dit:
        carried += d * (
            8 * (architecture.unique_layers + architecture.coda) + 3
        )  # six vectors a layer, two of them again with one added
        spent = d if architecture.loop_conditioning or not again else 0
    if again:  # for the loops to come: the injected input, and the condition
        carried += (state if architecture.input_injection else 0) + (d if architecture.loop_conditioning else 0)
    inside = architecture.input_injection and architecture.recall == "inside"
    carried += state if inside and not again else 0  # for the layers to come
    recalled = state if inside and not again and architecture.unique_layers == 1 else 0  # not needed by the last MLP
    tally = 0
    if network.depth == "universal":  # the sum of states, what is unspent, loops spent (from the second on), who runs
        carried += state + length * (2 if loops > 2 else 1)
        tally = BOOL * batch * length

    mask = 0 if architecture.attention_radius is None else FLOAT * length**2
    rotary = architecture.positions == "rotary"
    fused = (6 if rotary else 4) * state + length * architecture.heads  # turned queries and keys beside all three
    attention = FLOAT * batch * (carried - spent + fused) + mask
    if rotary:  # beside all three: what turns, swapped, in products with cosines, and turned
        attention = max(attention, FLOAT * batch * (carried - spent + 9 * state))
    updated = length * architecture.loop_adapter_rank  # between the factors of the update that is added
    mlp = FLOAT * batch * (carried - 2 * spent - recalled + 2 * architecture.mlp_ratio * state + updated)
    if updated:  # the sum of queries, keys and values
        attention = max(attention, FLOAT * batch * (carried - spent + 6 * state + updated))
    # Patches are put back in their places by a copy.
    copied = network.data.kind == "continuous" and architecture.patch > 1 and network.grid[1] > 1
    head = FLOAT * batch * tokens * (network.outputs + max(d, network.outputs if copied else 0))
    return max(attention + tally, mlp + tally, head)


def _check_counted(count: str, network: NetworkSpec, uncounted: Mapping[str, str]) -> None:
    """Raise ValueError at a depth that keeps something which this count leaves out."""
    if what := uncounted.get(network.depth):
        raise ValueError(f"{count} counts no {what}: expected another depth, given {network.depth!r}")
