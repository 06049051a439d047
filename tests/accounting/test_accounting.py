"""The closed forms equal what torch holds and what torch's own counter counts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_architectures import CONTINUOUS, DEPTHS, FITTING, RELAY, TOKENS, architectures, calls, specs
from torch.utils.flop_counter import FlopCounterMode

from eltbench import accounting
from eltbench.accounting import NetworkSpec
from eltbench.backends.torch.recursive import network_of
from eltbench.core.config import Architecture

timing = st.booleans()


def on_meta(architecture, depth, spec, timed):
    with torch.device("meta"):
        return network_of(NetworkSpec(architecture, depth, spec, timed=timed))


def counted_flops(network, spec, timed, exits, batch=1):
    shape = (*spec.grid, spec.channels) if spec.kind == "continuous" else (spec.tokens,)
    dtype = torch.float32 if spec.kind == "continuous" else torch.int32
    with torch.device("meta"):
        inputs, labels = torch.empty(batch, *shape, dtype=dtype), torch.empty(batch, dtype=torch.int32)
        context = torch.empty(batch, spec.tokens, dtype=torch.int32) if spec.context_vocabulary else None
        log_snr = torch.empty(batch) if timed else None
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(inputs, labels, context, log_snr, exits)
    return counter.get_total_flops()


@pytest.mark.slow
@settings(max_examples=25, deadline=None, derandomize=True)
@given(calls())
def test_parameters_equal_torchs_by_part(call):
    rooms = ("embedding", "block", "prelude", "coda", "conditioning", "head", "halting", "adapters")
    parts = dict.fromkeys(rooms, 0)
    part_of = {"blocks": "block", "condition": "conditioning", "injection": "embedding", "judge": "halting"}
    for name, parameter in on_meta(*call[:4]).named_parameters():
        room = name.split(".")[0]
        parts[part_of.get(room, room)] += parameter.numel()
    assert accounting.parameters(call.network) == parts


@pytest.mark.slow
@settings(max_examples=12, deadline=None, derandomize=True)
@given(architectures, st.sampled_from(DEPTHS), specs, timing, st.sets(st.integers(1, 5), min_size=1))
def test_flops_equal_torchs_counter(architecture, depth, spec, timed, exits):
    architecture = replace(architecture, **FITTING.get(depth, {}))
    exits = (1,) if depth == "unique" else tuple(sorted(exits))
    counted = counted_flops(on_meta(architecture, depth, spec, timed), spec, timed, exits, batch=2)
    assert 2 * accounting.flops(NetworkSpec(architecture, depth, spec, timed), exits[-1], len(exits)) == counted


@pytest.mark.slow
@pytest.mark.parametrize("block", ["dit", "bert"])
@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("spec", [CONTINUOUS, TOKENS, RELAY], ids=["continuous", "tokens", "relay"])
def test_flops_equal_torchs_counter_for_every_scheme_block_and_data(depth, block, spec):
    architecture = Architecture(width=16, heads=2, block=block, max_loops=1)
    timed, exits = spec.kind == "continuous", (1,) if depth == "unique" else (2, 3)
    counted = counted_flops(on_meta(architecture, depth, spec, timed), spec, timed, exits)
    assert accounting.flops(NetworkSpec(architecture, depth, spec, timed), exits[-1], len(exits)) == counted
    assert accounting.macs(NetworkSpec(architecture, depth, spec, timed), exits[-1], len(exits)) * 2 == counted


@pytest.mark.parametrize("depth", ["looped", "universal"])
def test_parameter_count_does_not_depend_on_the_number_of_loops(depth):
    counts = set()
    for max_loops in (1, 4, 32):
        architecture = Architecture(width=16, heads=2, max_loops=max_loops)
        parts = accounting.parameters(NetworkSpec(architecture, depth, CONTINUOUS, True))
        trained = sum(parameter.numel() for parameter in on_meta(architecture, depth, CONTINUOUS, True).parameters())
        assert trained == sum(parts.values())
        counts.add(trained)
    assert len(counts) == 1


@pytest.mark.slow
@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    architectures,
    st.sampled_from(["looped", "universal"]),
    specs,
    timing,
    *(st.integers(1, most) for most in (4, 4, 5)),
)
def test_loop_adapters_add_what_torch_holds_and_counts(architecture, depth, spec, timed, rank, max_loops, loops):
    plain = replace(architecture, max_loops=max_loops)
    adapted = replace(plain, loop_adapter_rank=rank)
    networks = [on_meta(each, depth, spec, timed) for each in (plain, adapted)]
    held = [sum(parameter.numel() for parameter in network.parameters()) for network in networks]
    counted = [counted_flops(network, spec, timed, (loops,)) for network in networks]  # also beyond max_loops
    known = [accounting.parameters(NetworkSpec(each, depth, spec, timed))["adapters"] for each in (plain, adapted)]
    assert known == [0, held[1] - held[0]]
    computed = [accounting.flops(NetworkSpec(each, depth, spec, timed), loops) for each in (plain, adapted)]
    assert computed == counted
    assert computed[1] > computed[0]


def test_unique_depth_has_no_loops_to_adapt():
    with pytest.raises(ValueError, match="expected loop_adapter_rank 0, given loop_adapter_rank 2"):
        accounting.parameters(NetworkSpec(Architecture(max_loops=1, loop_adapter_rank=2), "unique", CONTINUOUS, True))


def test_a_dit_layer_holds_18_squared_widths_of_weights():
    """DiT (arXiv 2212.09748): 4 D² attention, 8 D² MLP, 6 D² modulation; the rest are biases, linear in D."""
    block = [
        accounting.parameters(NetworkSpec(Architecture(width=d), "looped", CONTINUOUS, True))["block"] / 2
        for d in (64, 128)
    ]
    squares = (block[1] - 2 * block[0]) / (128**2 - 2 * 64**2)
    assert squares == 18


def test_weight_bytes_follow_the_precision():
    total = sum(accounting.parameters(NetworkSpec(Architecture(), "looped", CONTINUOUS, True)).values())
    assert accounting.weight_bytes(NetworkSpec(Architecture(), "looped", CONTINUOUS, True)) == 4 * total
    assert (
        accounting.weight_bytes(NetworkSpec(Architecture(), "looped", CONTINUOUS, True), precision="bf16") == 2 * total
    )
    with pytest.raises(ValueError, match=r"precision must be one of .*fp32.*given 'int8'"):
        accounting.weight_bytes(NetworkSpec(Architecture(), "looped", CONTINUOUS, True), precision="int8")


@pytest.mark.parametrize(
    ("depth", "loops", "exits", "message"),
    [
        ("looped", 0, 1, "at least 1, given 0"),
        ("unique", 2, 1, "exactly 1 at unique depth, given 2"),
        ("looped", 3, 4, "between 1 and the 3 loops, given 4"),
        ("endless", 1, 1, "given 'endless'"),
    ],
)
def test_impossible_calls_are_refused(depth, loops, exits, message):
    with pytest.raises(ValueError, match=message):
        accounting.macs(NetworkSpec(Architecture(max_loops=1), depth, CONTINUOUS, True), loops, exits)
