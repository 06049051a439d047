"""Blocks, patches, initial weights and ops against torch's own layers and plain formulas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from eltbench.accounting import NetworkSpec
from eltbench.backends.torch.blocks import BertBlock, DiTBlock, PostNormBlock
from eltbench.backends.torch.network import Network
from eltbench.backends.torch.ops import TorchOps
from eltbench.core.config import Architecture
from eltbench.data.base import DataSpec
from eltbench.tasks.base import Ops

CONTINUOUS = DataSpec("continuous", (4, 6), channels=2, classes=3)
TOKENS = DataSpec("tokens", (3, 4), vocabulary=5, classes=3)
ARCHITECTURE = Architecture(width=16, heads=2)


def torchs_layer(block, activation: Callable | str, affine: bool, first: bool = True) -> nn.TransformerEncoderLayer:
    """torch's own transformer layer, the norms first or behind, with the weights of `block`."""
    layer = nn.TransformerEncoderLayer(
        16, 2, 64, dropout=0, activation=activation, layer_norm_eps=1e-6, batch_first=True, norm_first=first
    ).double()
    twins = {
        "self_attn.in_proj_weight": block.attention.qkv.weight,
        "self_attn.in_proj_bias": block.attention.qkv.bias,
        "self_attn.out_proj.weight": block.attention.projection.weight,
        "self_attn.out_proj.bias": block.attention.projection.bias,
        "linear1.weight": block.mlp.expand.weight,
        "linear1.bias": block.mlp.expand.bias,
        "linear2.weight": block.mlp.contract.weight,
        "linear2.bias": block.mlp.contract.bias,
    }
    for norm in ("norm1", "norm2"):
        twins[f"{norm}.weight"] = getattr(block, norm).weight if affine else torch.ones(16)
        twins[f"{norm}.bias"] = getattr(block, norm).bias if affine else torch.zeros(16)
    layer.load_state_dict(twins)
    return layer


@pytest.mark.parametrize("block", ["dit", "bert"])
def test_a_loop_norm_leaves_every_state_with_mean_zero_and_variance_one(block):
    shape = replace(ARCHITECTURE, block=block, unique_layers=2, input_injection=True)
    plain, normed = (
        Network(NetworkSpec(each, "looped", TOKENS, False), generator=torch.Generator().manual_seed(0))
        for each in (shape, replace(shape, loop_norm=True))
    )
    assert sum(p.numel() for p in plain.parameters()) == sum(p.numel() for p in normed.parameters())
    batch = torch.tensor([[0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5]]), torch.tensor([1]), None, None
    state, conditioning = normed.embed(*batch)
    for index in (1, 2, 3):
        before = plain.loop(state, conditioning, index)
        state = normed.loop(state, conditioning, index)
        deviation = before.var(-1, correction=0, keepdim=True).add(1e-6).sqrt()
        torch.testing.assert_close(state, (before - before.mean(-1, keepdim=True)) / deviation)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", [BertBlock, PostNormBlock])
def test_the_bert_block_is_torchs_layer_with_its_norms_first_or_behind(kind, masked):
    torch.manual_seed(0)
    block, x = kind(ARCHITECTURE).double(), torch.randn(3, 7, 16, dtype=torch.float64)
    with torch.no_grad():
        block.norm1.weight += torch.randn(16)
        block.norm2.bias += torch.randn(16)
    sees = torch.ones(7, 7).tril().bool() if masked else None
    expected = torchs_layer(block, "gelu", True, kind is BertBlock)(x, src_mask=None if sees is None else ~sees)
    torch.testing.assert_close(block(x, (), sees), expected)


def test_the_dit_block_with_neutral_modulation_is_torchs_layer_and_with_zero_gates_the_identity():
    torch.manual_seed(0)
    block, x = DiTBlock(ARCHITECTURE).double(), torch.randn(3, 7, 16, dtype=torch.float64)
    one, zero = torch.ones(3, 1, 16, dtype=torch.float64), torch.zeros(3, 1, 16, dtype=torch.float64)
    expected = torchs_layer(block, nn.GELU(approximate="tanh"), False)(x)
    torch.testing.assert_close(block(x, (zero, one, one, zero, one, one), None), expected)
    assert torch.equal(block(x, (one, one, zero, one, one, zero), None), x)


def test_the_dit_block_modulates_as_the_paper_says():
    """x + gate · f(norm(x) · (1 + scale) + shift), shift scale gate for attention, then for the MLP (DiT, sec. 3.2)."""
    torch.manual_seed(0)
    block = DiTBlock(ARCHITECTURE).double()
    x, condition = torch.randn(3, 7, 16, dtype=torch.float64), torch.randn(3, 16, dtype=torch.float64)
    vectors = (condition @ block.modulation.weight.T + block.modulation.bias).reshape(3, 6, 1, 16)

    def norm(y):
        return (y - y.mean(-1, keepdim=True)) / (y.var(-1, keepdim=True, correction=0) + 1e-6).sqrt()

    expected = x
    for first, sublayer in ((0, lambda y: block.attention(y, None)), (3, block.mlp)):
        shift, scale, gate = vectors[:, first], vectors[:, first + 1], vectors[:, first + 2]
        expected = expected + gate * sublayer(norm(expected) * (1 + scale) + shift)
    torch.testing.assert_close(block(x, block.modulate(condition), None), expected)


@pytest.mark.parametrize("kind", [DiTBlock, BertBlock])
def test_sandwich_normalises_what_a_sub_layer_adds(kind):
    torch.manual_seed(0)
    block = kind(Architecture(width=16, heads=2, norm="sandwich"))
    one, zero = torch.ones(2, 1, 16), torch.zeros(2, 1, 16)
    with torch.no_grad():
        block.mlp.contract.weight.zero_()  # the MLP adds a norm of zero: nothing
        block.mlp.contract.bias.zero_()
        x = torch.randn(2, 5, 16)
        added = block(x, (zero, one, one, zero, one, one), None) - x
    torch.testing.assert_close(added.mean(-1), torch.zeros(2, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(added.var(-1, correction=0), torch.ones(2, 5), atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    ("scale", "strength", "factor"),
    [("loops", 1.0, 1 / (4 * 2**0.5)), ("layers", 1.0, 2**-0.5), ("loops", 2.0, 0.5 / 2**0.5)],
)
@pytest.mark.parametrize("kind", [DiTBlock, BertBlock])
def test_the_residual_scale_multiplies_what_each_sub_layer_adds(kind, scale, strength, factor):
    """x + ε f(x) with ε = λ / (L_max √N) or λ / √N (arXiv 2606.18524)."""
    torch.manual_seed(0)
    shape = replace(ARCHITECTURE, unique_layers=2, max_loops=4)
    plain = kind(shape).double()
    scaled = kind(replace(shape, residual_scale=scale, residual_strength=strength)).double()
    x, condition = torch.randn(3, 7, 16, dtype=torch.float64), torch.randn(3, 16, dtype=torch.float64)
    for silent in (plain.mlp.contract, plain.attention.projection):  # each sub-layer alone
        kept = {name: value.clone() for name, value in plain.state_dict().items()}
        with torch.no_grad():
            silent.weight.zero_()
            silent.bias.zero_()
        scaled.load_state_dict(plain.state_dict())
        added = plain(x, plain.modulate(condition), None) - x
        assert added.abs().max() > 0.01
        torch.testing.assert_close(scaled(x, scaled.modulate(condition), None), x + factor * added)
        plain.load_state_dict(kept)


def test_each_patch_is_read_and_written_at_its_place():
    """With identity blocks and maps the prediction is every patch of the input, normalised."""
    spec = DataSpec("continuous", (4, 6), channels=2)
    network = Network(NetworkSpec(Architecture(width=8, heads=1, patch=2), "looped", spec, timed=False))
    with torch.no_grad():
        network.positions.zero_()
        network.embedding.patches.weight.copy_(torch.eye(8))
        network.head.linear.weight.copy_(torch.eye(8))
        image = torch.randn(2, 4, 6, 2, generator=torch.Generator().manual_seed(0))
        (output,) = network(image, torch.zeros(2, dtype=torch.int32), None, None, (2,))
    for row in (0, 2):
        for column in (0, 2, 4):
            patch = image[:, row : row + 2, column : column + 2]
            centred = patch - patch.mean((1, 2, 3), keepdim=True)
            expected = centred / (centred.square().mean((1, 2, 3), keepdim=True) + 1e-6).sqrt()
            torch.testing.assert_close(output.prediction[:, row : row + 2, column : column + 2], expected)


@pytest.mark.parametrize("block", ["dit", "bert"])
@pytest.mark.parametrize("spec", [CONTINUOUS, TOKENS], ids=["continuous", "tokens"])
@pytest.mark.parametrize("depth", ["looped", "universal"])
def test_one_generator_seed_gives_one_network(depth, spec, block):
    architecture = Architecture(width=16, heads=2, block=block, input_injection=True, norm="sandwich")

    def weights(seed):
        torch.manual_seed(torch.seed() % 1000)  # the global stream must not matter
        generator = torch.Generator().manual_seed(seed)
        return Network(NetworkSpec(architecture, depth, spec, timed=True), generator=generator).state_dict()

    first, again, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
    assert all(value.isfinite().all() for value in first.values())


def test_the_first_dit_is_the_identity_and_predicts_zero():
    network = Network(NetworkSpec(ARCHITECTURE, "looped", CONTINUOUS, timed=True))
    call = (torch.randn(2, 4, 6, 2), torch.tensor([0, 3]), None, torch.zeros(2))
    state, conditioning = network.embed(*call)
    assert torch.equal(network.loop(state, conditioning, 1), state)
    assert torch.equal(network.read(state, conditioning), torch.zeros(2, 4, 6, 2))


@pytest.mark.parametrize("block", ["dit", "bert"])
def test_the_first_logits_are_near_uniform(block):
    network = Network(NetworkSpec(Architecture(width=64, heads=4, block=block), "looped", TOKENS, timed=False))
    (output,) = network(torch.zeros(2, 12, dtype=torch.int32), torch.tensor([0, 3]), None, None, (4,))
    probability = output.prediction.softmax(-1)
    assert 0.1 < probability.min() < probability.max() < 0.4


def test_parameter_names_are_the_ones_that_checkpoints_rely_on():
    architecture = Architecture(unique_layers=1, width=16, heads=2, input_injection=True)
    spec = DataSpec("tokens", (2, 3), vocabulary=4, classes=2, context_vocabulary=6)
    network = Network(NetworkSpec(architecture, "universal", spec, timed=True))
    linear = ["blocks.0.attention.projection", "blocks.0.attention.qkv", "blocks.0.mlp.contract", "blocks.0.mlp.expand"]
    linear += ["blocks.0.modulation", "condition.log_snr_in", "condition.log_snr_out", "halting.linear"]
    linear += ["head.linear", "head.modulation", "injection"]
    expected = [f"{name}.{part}" for name in linear for part in ("weight", "bias")]
    expected += [f"{name}.weight" for name in ("condition.labels", "embedding.context", "embedding.tokens")]
    assert sorted(network.state_dict()) == sorted(expected)
    assert network.state_dict()["blocks.0.attention.qkv.weight"].shape == (48, 16)


def test_ops_equal_plain_formulas():
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(2, 3, 5)).astype(np.float32), rng.integers(5, size=(2, 3)).astype(np.int32)
    frozen = logits.copy()
    frozen.flags.writeable = False
    ops: Ops = TorchOps("cpu")
    log_probability = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -np.take_along_axis(log_probability, targets[..., None], -1)[..., 0]
    given = ops.asarray(frozen)
    assert given.dtype == torch.float32
    np.testing.assert_allclose(ops.cross_entropy(given, ops.asarray(targets)).numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(ops.log_softmax(given).numpy(), log_probability, rtol=1e-5, atol=1e-6)
    variable = given.requires_grad_()
    assert not ops.stop_gradient(variable).requires_grad
    assert torch.equal(ops.stop_gradient(variable), variable)
