"""The bytes that a call's products move equal those of the products that torch runs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_architectures import CONTINUOUS, TOKENS, Call, calls, prepared
from torch.utils._python_dispatch import TorchDispatchMode

from eltbench import accounting
from eltbench.accounting import NetworkSpec
from eltbench.core.config import Architecture

aten = torch.ops.aten


class Traffic(TorchDispatchMode):
    """Bytes of weights, and of what is no weight, that the matrix products read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.moved = {"weights": 0, "activations": 0}

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        result = operation(*arguments, **(keywords or {}))
        if operation is aten.addmm.default:
            added, inputs, weight = arguments
            self.moved["weights" if added.ndim == 1 else "activations"] += added.nbytes  # a bias, or what a map gave
            self.moved["weights"] += weight.nbytes
            self.moved["activations"] += inputs.nbytes + result.nbytes
        elif operation is aten.mm.default:
            inputs, weight = arguments
            self.moved["weights"] += weight.nbytes
            self.moved["activations"] += inputs.nbytes + result.nbytes
        elif operation is aten._scaled_dot_product_flash_attention_for_cpu.default:
            self.moved["activations"] += sum(operand.nbytes for operand in arguments[:3]) + result[0].nbytes
        return result


def moved(call: Call, batch: int) -> dict[str, int]:
    predict, _ = prepared(call, batch)
    with torch.no_grad(), Traffic() as traffic:
        predict()
    return traffic.moved


@pytest.mark.slow
@settings(max_examples=25, derandomize=True)
@given(calls(), st.integers(1, 3))
def test_moved_bytes_equal_those_of_torchs_products(call, batch):
    assert accounting.moved_bytes(call.network, call.exits[-1], len(call.exits), batch) == moved(call, batch)


def test_only_a_resident_block_saves_traffic_by_looping():
    looped = (NetworkSpec(Architecture(unique_layers=2, max_loops=4, block="bert"), "looped", TOKENS, False), 4)
    unique = (NetworkSpec(Architecture(unique_layers=8, max_loops=1, block="bert"), "unique", TOKENS, False), 1)
    assert accounting.moved_bytes(*looped) == accounting.moved_bytes(*unique)
    assert accounting.moved_bytes(*unique, resident=True) == accounting.moved_bytes(*unique)
    block = accounting.parameters(looped[0])["block"] - 2 * 4 * 64  # norms are no products
    saved = accounting.moved_bytes(*looped)["weights"] - accounting.moved_bytes(*looped, resident=True)["weights"]
    assert saved == 4 * 3 * block


def test_a_resident_block_reads_the_adapters_of_every_loop_that_has_its_own():
    """By hand, rank 2, width 64, MLP ratio 4: (64 + 192 + 64 + 64 + 64 + 256 + 256 + 64) · 2 a layer and loop."""
    plain, adapted = (Architecture(unique_layers=3, max_loops=4, loop_adapter_rank=rank) for rank in (0, 2))
    for loops, times in ((1, 1), (4, 4), (9, 4)):
        read = [
            accounting.moved_bytes(NetworkSpec(each, "looped", CONTINUOUS, True), loops, resident=True)["weights"]
            for each in (plain, adapted)
        ]
        assert read[1] - read[0] == 4 * 3 * times * 2048


def test_intensity_grows_with_the_batch_towards_that_of_activations_alone():
    call = (NetworkSpec(Architecture(), "looped", CONTINUOUS, True), 4)
    by_batch = [accounting.arithmetic_intensity(*call, batch=batch) for batch in (1, 8, 64, 10**9)]
    activations = accounting.moved_bytes(*call)["activations"]
    assert by_batch == sorted(by_batch)
    assert by_batch[-1] == pytest.approx(accounting.flops(*call) / activations, rel=1e-5)


def test_intensity_of_one_wide_linear_map_is_a_quarter_of_a_flop_a_byte_and_vector():
    """A weight of four bytes is read for 2 FLOPs a vector: T/2 FLOP a byte while weights dominate."""
    architecture = Architecture(width=4096, unique_layers=1, max_loops=1, block="bert")
    found = accounting.arithmetic_intensity(NetworkSpec(architecture, "looped", TOKENS, False), 1)
    assert found == pytest.approx(13 / 2, rel=0.01)
    half = accounting.arithmetic_intensity(NetworkSpec(architecture, "looped", TOKENS, False), 1, precision="bf16")
    assert half == pytest.approx(2 * found)


def test_an_unknown_precision_and_an_impossible_call_are_refused():
    with pytest.raises(ValueError, match="batch must be at least 1, given 0"):
        accounting.arithmetic_intensity(NetworkSpec(Architecture(), "looped", CONTINUOUS, True), 1, batch=0)
    with pytest.raises(ValueError, match=r"precision must be one of .*fp32.*given 'int8'"):
        accounting.moved_bytes(NetworkSpec(Architecture(), "looped", CONTINUOUS, True), 1, precision="int8")
