"""Per-loop adapters: which loop has which update, and what they add to a map."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from eltbench.accounting import NetworkSpec
from eltbench.backends.torch.network import Network
from eltbench.core.config import Architecture
from eltbench.data.base import DataSpec

CONTINUOUS = DataSpec("continuous", (4, 6), channels=2, classes=3)
RANK, LOOPS = 2, 3
NAMES = ("qkv", "projection", "expand", "contract")


def network_of(block="dit", rank=RANK, depth="looped", layers=2, spread=0.0):
    """A network whose every parameter lies `spread` away from its start, and a call's arguments."""
    architecture = Architecture(
        unique_layers=layers, max_loops=LOOPS, width=16, heads=2, block=block, loop_adapter_rank=rank
    )
    generator = torch.Generator().manual_seed(0)
    network = Network(NetworkSpec(architecture, depth, CONTINUOUS, timed=True), generator=generator)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            draws = torch.Generator().manual_seed(sum(name.encode()))  # of the name alone, whoever else is there
            parameter += spread * torch.randn(parameter.shape, generator=draws)
    inputs = torch.randn(3, 4, 6, 2, generator=torch.Generator().manual_seed(1))
    return network, (inputs, torch.tensor([0, 1, 3]), None, torch.tensor([-5.0, 0.0, 5.0]))


def predictions(network, call, exits=(1, 2, 3, 5)):
    with torch.no_grad():
        return [output.prediction for output in network(*call, exits)]


@pytest.mark.parametrize("depth", ["looped", "universal"])
@pytest.mark.parametrize("block", ["dit", "bert"])
def test_at_the_start_the_network_is_the_plain_one_of_that_seed(block, depth):
    (plain, call), (adapted, _) = (network_of(block, rank, depth) for rank in (0, RANK))
    ours, theirs = plain.state_dict(), adapted.state_dict()
    assert ours.keys() < theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    with torch.no_grad():
        for network in (plain, adapted):  # away from zero gates and a zero head
            for name, parameter in network.named_parameters():
                if not name.startswith("adapters"):
                    draws = torch.Generator().manual_seed(sum(name.encode()))
                    parameter += 0.2 * torch.randn(parameter.shape, generator=draws)
    for expected, given in zip(predictions(plain, call), predictions(adapted, call), strict=True):
        assert torch.equal(given, expected)


def test_the_first_factor_is_random_and_the_second_zero():
    network, _ = network_of()
    for layer in network.adapters:
        for name in NAMES:
            stack = getattr(layer, name)
            assert (stack.up == 0).all()
            bound = (6 / (RANK + stack.down.shape[-1])) ** 0.5  # Xavier's, of one loop's matrix
            assert 0.7 * bound < stack.down.abs().max() <= bound
            assert all(not torch.equal(*pair) for pair in pairwise(stack.down))


@pytest.mark.parametrize("block", ["dit", "bert"])
def test_an_update_is_the_same_as_another_weight_in_that_loop(block):
    """Running loop l of an adapted network is running the plain one with W + B_l·A_l."""
    (adapted, call), (plain, _) = (network_of(block, rank, spread=0.2) for rank in (RANK, 0))
    state, conditioning = adapted.embed(*call)
    for index in (1, 2, 3, 4, 9):  # beyond max_loops the last update stays
        with torch.no_grad():
            for layer, (block_of_plain, adapters) in enumerate(zip(plain.blocks, adapted.adapters, strict=True)):
                shared = adapted.blocks[layer]
                pairs = {
                    "qkv": (block_of_plain.attention.qkv, shared.attention.qkv),
                    "projection": (block_of_plain.attention.projection, shared.attention.projection),
                    "expand": (block_of_plain.mlp.expand, shared.mlp.expand),
                    "contract": (block_of_plain.mlp.contract, shared.mlp.contract),
                }
                for name, (own, base) in pairs.items():
                    stack, place = getattr(adapters, name), min(index, LOOPS) - 1
                    own.weight.copy_(base.weight + stack.up[place] @ stack.down[place])
            expected, given = (network.loop(state, conditioning, index) for network in (plain, adapted))
        torch.testing.assert_close(given, expected, rtol=1e-5, atol=1e-5)
        state = given


def test_a_loops_update_is_learned_from_the_exits_that_ran_it():
    network, call = network_of(spread=0.2)
    (output,) = network(*call, (2,))
    output.prediction.square().mean().backward()
    for layer in network.adapters:
        for stack in (getattr(layer, name) for name in NAMES):
            for factor in (stack.down, stack.up):
                moved = factor.grad.abs().amax(dim=(1, 2)) > 0
                assert moved.tolist() == [True, True, False]


def test_a_network_without_adapters_holds_none():
    network, _ = network_of(rank=0)
    assert not [name for name in network.state_dict() if "adapters" in name]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # of torch's own tracing
def test_a_new_loop_count_never_recompiles_the_block():
    network, call = network_of(layers=1, spread=0.2)
    expected = predictions(network, call, (9,))[0]
    torch.compiler.reset()
    counter = CompileCounter()
    network.compile_block(backend=counter)
    graphs = set()
    for loops in range(1, 10):
        (prediction,) = predictions(network, call, (loops,))
        graphs.add(counter.frame_count)
    assert graphs == {1}
    torch.testing.assert_close(prediction, expected)


def test_bfloat16_autocast_reaches_the_adapters_and_keeps_a_float32_state():
    network, call = network_of(spread=0.1)
    (exact,) = network(*call, (3,), ("state",))
    with torch.autocast("cpu", torch.bfloat16):
        (output,) = network(*call, (3,), ("state",))
    assert output.state.dtype == torch.float32
    assert 0 < (output.state - exact.state).norm() / exact.state.norm() < 0.03
