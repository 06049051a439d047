"""What is added around and within the loop: prelude and coda, recall inside the layers, rotary positions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_network_exits import SPECS, build, count_calls

from eltbench.accounting import NetworkSpec
from eltbench.backends import positions
from eltbench.backends.torch.blocks import BertBlock, DiTBlock, PostNormBlock, RotaryAttention
from eltbench.backends.torch.network import Network
from eltbench.core.config import Architecture
from eltbench.data.base import DataSpec

AROUND = {"prelude": 1, "coda": 2}


def unrolled(network: Network, loops: int) -> Network:
    """A unique-depth network whose layers are prelude, block once a loop, and coda: the same weights, copied."""
    shape, spec = network.architecture, network.spec
    plain = {"prelude": 0, "coda": 0, "max_loops": 1, "min_loops": 1, "unique_layers": shape.depth_at(loops)}
    unique = Network(replace(spec, architecture=replace(shape, **plain), depth="unique"))
    held = {name: value for name, value in network.state_dict().items() if not name.startswith(("blocks", *AROUND))}
    for place, layer in enumerate((*network.prelude, *(loops * list(network.blocks)), *network.coda)):
        held |= {f"blocks.{place}.{name}": value for name, value in layer.state_dict().items()}
    unique.load_state_dict(held)
    return unique


@pytest.mark.parametrize("loops", [1, 3])
@pytest.mark.parametrize("data", SPECS)
@pytest.mark.parametrize(
    ("block", "options"), [("dit", {}), ("bert", {}), ("bert", {"norm": "post", "positions": "rotary"})]
)
def test_prelude_loop_and_coda_are_a_deep_network_of_shared_layers(block, options, data, loops):
    network, call = build("looped", block, data, **AROUND, **options)
    (output,), (expected,) = network(*call, (loops,)), unrolled(network, loops)(*call, (1,))
    torch.testing.assert_close(output.prediction, expected.prediction)


def test_layers_of_prelude_and_coda_drop_by_masks_of_their_own():
    network, call = build("looped", "bert", "tokens", dropout=0.5, **AROUND)
    dropped = torch.rand(3, 5, 2, network.spec.length, 16, generator=torch.Generator().manual_seed(2)) < 0.5
    order = [0, 1, 2, 1, 2, 3, 4]  # prelude, two loops of the block, coda
    (output,) = network(*call, (2,), ("prediction",), dropped)
    (expected,) = unrolled(network, 2)(*call, (1,), ("prediction",), dropped[:, order])
    torch.testing.assert_close(output.prediction, expected.prediction)


@pytest.mark.parametrize("block", ["dit", "bert"])
def test_the_prelude_runs_once_a_call_and_the_coda_at_the_exits_that_are_read(block):
    network, call = build("looped", block, **AROUND)
    calls = count_calls(network)
    network(*call, (1, 3, 6))
    assert [calls[f"{name}.0"] for name in ("prelude", "blocks", "coda")] == [1, 6, 3]
    if block == "dit":
        assert [calls[f"{name}.0.modulation"] for name in ("prelude", "blocks", "coda")] == [1, 1, 1]
    network(*call, (2,), ("state",))
    assert calls["coda.0"] == 3  # a state is read before the coda


def test_the_residual_scale_counts_every_layer_and_divides_by_loops_within_the_loop_alone():
    """ε = λ / (L √M) in the loop and λ / √M outside it, M = 1 + 2 + 1."""
    shape = Architecture(width=16, heads=2, max_loops=5, prelude=1, coda=1)
    for scale, inside in (("none", 1.0), ("layers", 3 / 2), ("loops", 3 / 10)):
        strength = 1.0 if scale == "none" else 3.0
        scaled = replace(shape, residual_scale=scale, residual_strength=strength)
        network = Network(NetworkSpec(scaled, "looped", SPECS["tokens"], timed=False))
        assert {layer.scale for layer in network.blocks} == {inside}
        outside = {layer.scale for layer in (*network.prelude, *network.coda)}
        assert outside == {1.0 if scale == "none" else 3 / 2}


def test_what_there_was_before_is_drawn_as_without_a_prelude_and_a_coda():
    plain, around = (
        Network(
            NetworkSpec(Architecture(width=16, heads=2, block="bert", **more), "universal", SPECS["tokens"], False),
            generator=torch.Generator().manual_seed(0),
        ).state_dict()
        for more in ({}, AROUND)
    )
    assert all(torch.equal(value, around[name]) for name, value in plain.items())


# Recall


@pytest.mark.parametrize("kind", [DiTBlock, BertBlock, PostNormBlock])
def test_recall_is_added_between_attention_and_mlp(kind):
    torch.manual_seed(0)
    block = kind(Architecture(width=16, heads=2)).double()
    x, recalled, condition = (torch.randn(3, *more, 16, dtype=torch.float64) for more in ((7,), (7,), ()))
    modulation = block.modulate(condition)
    found = block(x, modulation, None, recalled=recalled)
    silent = kind(Architecture(width=16, heads=2)).double()
    silent.load_state_dict(block.state_dict())
    with torch.no_grad():
        silent.mlp.contract.weight.zero_()
        silent.mlp.contract.bias.zero_()
    if kind is PostNormBlock:  # whose last norm would norm again
        between = block.norm1(x + block.attention(x, None)) + recalled
        expected = block.norm2(between + block.mlp(between))
    else:
        between = silent(x, modulation, None) + recalled  # attention alone, and what is recalled
        with torch.no_grad():
            silent.load_state_dict(block.state_dict())
            silent.attention.projection.weight.zero_()
            silent.attention.projection.bias.zero_()
        expected = silent(between, modulation, None)  # the MLP alone
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("block", ["dit", "bert"])
def test_recall_inside_makes_the_first_loop_a_loop_like_all_others(block):
    for recall, alike in (("inside", True), ("before", False)):
        network, call = build("looped", block, input_injection=True, recall=recall)
        state, conditioning = network.embed(*call)
        first, second = (network.loop(state, conditioning, index) for index in (1, 2))
        assert torch.equal(first, second) == alike
        without = conditioning._replace(injected=torch.zeros_like(conditioning.injected))
        assert not torch.allclose(second, network.loop(state, without, 2))


# Rotary positions


@pytest.mark.parametrize("prefix", [0, 1])
def test_a_pair_turns_by_its_frequency_times_its_place(prefix):
    """By complex numbers: the pair (a, b) of a half as a + bi times e^{iωp}, ω = 100^(-i / (size / 4))."""
    grid, size = (3, 5), 16
    cosines, sines = positions.rotations(grid, size, prefix)
    x = np.random.default_rng(0).normal(size=(prefix + 15, size))
    swapped = x.reshape(-1, 2, 2, 4)[:, :, ::-1].reshape(x.shape)
    turned = x * cosines + swapped * sines
    for token, place in enumerate([(0, 0)] * prefix + [(row, column) for row in range(3) for column in range(5)]):
        for half, at in enumerate(place):
            pairs = x[token, 8 * half : 8 * half + 4] + 1j * x[token, 8 * half + 4 : 8 * half + 8]
            expected = pairs * np.exp(1j * at * 100.0 ** (-np.arange(4) / 4))
            found = turned[token, 8 * half : 8 * half + 8].reshape(2, 4)
            np.testing.assert_allclose(found, [expected.real, expected.imag], atol=1e-6)


def test_rotary_attention_knows_offsets_alone():
    """The middle of a larger grid, seen by itself, is a grid that begins at (0, 0)."""
    small, large = (
        NetworkSpec(
            Architecture(width=16, heads=2, positions="rotary", block="bert"),
            "looped",
            DataSpec("tokens", grid, vocabulary=2),
            timed=False,
        )
        for grid in ((3, 4), (7, 9))
    )
    torch.manual_seed(0)
    attention, wider = RotaryAttention(small), RotaryAttention(large)
    wider.load_state_dict(attention.state_dict())
    x, middle = torch.randn(2, 12, 16), np.zeros((7, 9), bool)
    middle[3:6, 2:6] = True
    everywhere, places = torch.randn(2, 63, 16), torch.tensor(middle.ravel())
    everywhere[:, places] = x
    mask = places[None, :].expand(63, 63).clone().fill_diagonal_(True)  # all see the middle
    torch.testing.assert_close(wider(everywhere, mask)[:, places], attention(x, None), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("block", ["dit", "bert"])
@pytest.mark.parametrize("place", ["rotary", "sinusoidal"])
def test_with_rotary_positions_content_that_moves_on_a_larger_grid_moves_its_outputs(place, block):
    """Radius 1 and depth 3: a cell farther than 3 from the rim of the content sees nothing else."""
    shape = {"unique_layers": 1, "max_loops": 2, "prelude": 1, "attention_radius": 1, "width": 16, "heads": 2}
    architecture = Architecture(**shape, positions=place, block=block)
    generator = torch.Generator().manual_seed(0)
    specs = [DataSpec("tokens", grid, vocabulary=5, context_vocabulary=3) for grid in ((9, 10), (14, 20))]
    small, large = (Network(NetworkSpec(architecture, "looped", spec, timed=False)) for spec in specs)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    large.load_state_dict(small.state_dict())
    content = torch.randint(5, (2, 9, 10), generator=generator)
    surroundings = torch.randint(5, (2, 14, 20), generator=generator)
    surroundings[:, 4:13, 7:17] = content
    labels = torch.zeros(2, dtype=torch.int32)
    outputs = []
    for network, values in ((small, content), (large, surroundings)):
        given = values.flatten(1)
        (output,) = network(given, labels, given % 3, None, (2,))
        outputs.append(output.prediction.unflatten(1, values.shape[1:]))
    inner, moved = outputs[0][:, 3:6, 3:7], outputs[1][:, 7:10, 10:14]
    assert torch.allclose(inner, moved, atol=1e-5) == (place == "rotary")
