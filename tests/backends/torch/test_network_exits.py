"""Exits of one run equal shallower runs, work is done once, and only asked fields are filled."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise, product

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from eltbench.accounting import NetworkSpec
from eltbench.backends.torch.network import Network
from eltbench.core.config import Architecture
from eltbench.data.base import DataSpec

SPECS = {
    "continuous": DataSpec("continuous", (4, 6), channels=2, classes=3),
    "tokens": DataSpec("tokens", (3, 4), vocabulary=5, classes=3),
    "relay": DataSpec("tokens", (2, 5), vocabulary=4, context_vocabulary=6),
}
DEPTHS, BLOCKS = ("looped", "unique", "universal", "equilibrium"), ("dit", "bert")
OPTIONS = {
    "plain": {},
    "sandwich": {"norm": "sandwich"},
    "residual scale": {"residual_scale": "loops"},
    "input injection": {"input_injection": True},
    "loop embedding": {"loop_embedding": True},
    "loop conditioning": {"loop_conditioning": True},
    "attention radius": {"attention_radius": 1},
    "loop adapters": {"loop_adapter_rank": 2},
    "prelude and coda": {"prelude": 1, "coda": 2, "input_injection": True},
    "recall inside": {"input_injection": True, "recall": "inside"},
    "rotary": {"positions": "rotary", "attention_radius": 1},
}
LOOPED_ALONE = ("loop adapters", "prelude and coda")  # at unique depth there is no loop to adapt or to stand before


def build(depth="looped", block="dit", data="continuous", seed=0, **options):
    """A small network whose every parameter is away from its (partly zero) start, and a call's arguments."""
    spec = SPECS[data]
    timed = spec.kind == "continuous"
    architecture = Architecture(
        unique_layers=2, max_loops=1 if depth == "unique" else 3, width=16, heads=2, block=block, **options
    )
    generator = torch.Generator().manual_seed(seed)
    network = Network(NetworkSpec(architecture, depth, spec, timed=timed), generator=generator)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.15 * torch.randn(parameter.shape, generator=generator)
        if network.halting is not None:
            network.halting.linear.weight.mul_(0.05)
            network.halting.linear.bias.fill_(-2)  # late halting: p is about 0.12
    batch = 3
    if timed:
        inputs = torch.randn(batch, *spec.grid, spec.channels, generator=generator)
    else:
        inputs = torch.randint(spec.vocabulary + 1, (batch, spec.tokens), generator=generator)
    context = None
    if spec.context_vocabulary:
        context = torch.randint(spec.context_vocabulary, (batch, spec.tokens), generator=generator)
    labels = torch.randint(spec.classes + 1, (batch,), generator=generator)
    log_snr = torch.linspace(-15, 15, batch) if timed else None
    return network, (inputs, labels, context, log_snr)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("depth", "options"),
    [
        pytest.param(depth, options, id=f"{depth}-{name}")
        for depth, (name, options) in product(DEPTHS, OPTIONS.items())
        if depth != "unique" or name not in LOOPED_ALONE
    ],
)
@pytest.mark.parametrize("data", SPECS)
@pytest.mark.parametrize("block", BLOCKS)
def test_each_exit_equals_a_shallower_run(depth, block, data, options):
    network, call = build(depth, block, data, **options)
    exits = (1,) if depth == "unique" else (1, 2, 4, 5)  # beyond max_loops too
    fields = ("prediction", "state", "ponder", "unhalted")
    together = network(*call, exits, fields)
    assert len(together) == len(exits)
    for exit, output in zip(exits, together, strict=True):
        (alone,) = network(*call, (exit,), fields)
        assert torch.equal(output.prediction, alone.prediction)
        assert torch.equal(output.state, alone.state)
        for field, expected in ((output.ponder, alone.ponder), (output.unhalted, alone.unhalted)):
            assert (field is None) == (expected is None) == (depth != "universal")
            assert field is None or torch.equal(field, expected)
    predictions = [output.prediction for output in together]
    assert all(not torch.allclose(a, b) for a, b in pairwise(predictions))


@pytest.mark.parametrize("data", SPECS)
@pytest.mark.parametrize("block", BLOCKS)
def test_shapes_are_those_of_the_grid_without_the_prefix_token(block, data):
    network, call = build("universal", block, data)
    (output,) = network(*call, (2,), ("prediction", "state", "ponder", "unhalted"))
    spec, tokens = network.spec.data, network.spec.tokens
    assert output.prediction.shape == (call[0].shape if data == "continuous" else (3, tokens, spec.vocabulary))
    assert output.state.shape == (3, tokens, 16)
    assert output.ponder.shape == output.unhalted.shape == (3, tokens)


@pytest.mark.parametrize("data", SPECS)
@pytest.mark.parametrize("block", BLOCKS)
def test_embed_loop_and_read_compose_to_a_call(block, data):
    network, call = build("looped", block, data, input_injection=True, loop_conditioning=True, prelude=1, coda=1)
    state, conditioning = network.embed(*call)
    for index in (1, 2, 3):
        state = network.loop(state, conditioning, index)
    (output,) = network(*call, (3,))
    assert torch.equal(network.read(state, conditioning), output.prediction)


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:FutureWarning")  # torch's own forward-mode rules still use it
def test_one_loop_has_a_jacobian_vector_product():
    network, call = build("looped", "dit")
    network.double()
    inputs, labels, context, log_snr = call
    state, conditioning = network.embed(inputs.double(), labels, context, log_snr.double())
    direction = torch.randn(state.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def loop(x):
        return network.loop(x, conditioning, 1)

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        _, product = torch.func.jvp(loop, (state,), (direction,))
    difference = (loop(state + 1e-6 * direction) - loop(state - 1e-6 * direction)) / 2e-6
    torch.testing.assert_close(product, difference, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(
    ("exits", "message"),
    [
        ((), "at least one"),
        ((0, 1), r"at least 1, given \[0, 1\]"),
        ((2, 2), r"strictly increasing, given \[2, 2\]"),
        ((3, 1), r"strictly increasing, given \[3, 1\]"),
    ],
)
def test_impossible_exits_are_refused(depth, exits, message):
    network, call = build(depth)
    with pytest.raises(ValueError, match=message):
        network(*call, exits)


def test_exits_beyond_unique_depth_are_refused():
    network, call = build("unique")
    with pytest.raises(ValueError, match=r"ends at exit 1, given \[1, 2\]"):
        network(*call, (1, 2))


def test_impossible_networks_are_refused():
    spec = SPECS["continuous"]
    with pytest.raises(ValueError, match=r"divide the grid \(4, 6\), given patch 4"):
        Network(NetworkSpec(Architecture(patch=4), "looped", spec, timed=True))
    with pytest.raises(ValueError, match="no loops to adapt: expected loop_adapter_rank 0, given loop_adapter_rank 3"):
        Network(NetworkSpec(Architecture(max_loops=1, loop_adapter_rank=3), "unique", spec, timed=True))
    with pytest.raises(ValueError, match=r"no loop to stand before or behind: .* given prelude 0 and coda 1"):
        Network(NetworkSpec(Architecture(max_loops=1, coda=1), "unique", spec, timed=True))
    with pytest.raises(ValueError, match="max_loops 1 and all layers as unique_layers, given max_loops 4"):
        Network(NetworkSpec(Architecture(max_loops=4), "unique", spec, timed=True))
    with pytest.raises(
        ValueError, match="one of 'looped', 'unique', 'universal', 'equilibrium', 'recursive', given 'deep'"
    ):
        Network(NetworkSpec(Architecture(), "deep", spec, timed=True))


def test_missing_inputs_and_unknown_fields_are_refused():
    network, (inputs, labels, context, _) = build(data="continuous")
    with pytest.raises(ValueError, match="given log_snr None"):
        network(inputs, labels, context, None, (1,))
    with pytest.raises(ValueError, match="given \\['logits'\\]"):
        network(inputs, labels, context, torch.zeros(3), (1,), ("logits",))
    network, (inputs, labels, _, log_snr) = build(data="relay")
    with pytest.raises(ValueError, match="given context None"):
        network(inputs, labels, None, log_snr, (1,))


def count_calls(network):
    calls: Counter[str] = Counter()
    for name, module in network.named_modules():
        module.register_forward_hook(lambda *_, name=name: calls.update([name]))
    return calls


def test_loops_run_once_modulation_once_and_the_head_only_at_exits():
    network, call = build()
    calls = count_calls(network)
    network(*call, (1, 3, 6))
    for layer in (0, 1):
        assert calls[f"blocks.{layer}"] == 6
        assert calls[f"blocks.{layer}.modulation"] == 1
    assert calls["head.modulation"] == calls["condition"] == calls["embedding"] == 1
    assert calls["head.linear"] == 3


def test_loop_conditioning_modulates_in_every_loop():
    network, call = build(loop_conditioning=True)
    calls = count_calls(network)
    network(*call, (2, 5))
    assert calls["blocks.0.modulation"] == 5
    assert calls["head.modulation"] == 1


@pytest.mark.parametrize(
    "asked", [("prediction",), ("state",), ("ponder",), ("unhalted",), ("prediction", "ponder"), ()]
)
def test_only_asked_fields_are_filled(asked):
    network, call = build("universal")
    calls = count_calls(network)
    (output,) = network(*call, (2,), asked)
    for field, value in output._asdict().items():
        assert (value is not None) == (field in asked)
    assert calls["head.linear"] == ("prediction" in asked)


def test_labels_and_noise_levels_matter_and_labels_are_ignored_without_classes():
    for block in BLOCKS:
        network, (inputs, labels, context, log_snr) = build("looped", block, "continuous")
        (given,) = network(inputs, labels, context, log_snr, (2,))
        for other in ((labels + 1) % 4, log_snr), (labels, log_snr + 1):
            (changed,) = network(inputs, other[0], context, other[1], (2,))
            assert not torch.allclose(given.prediction, changed.prediction)
        network, (inputs, labels, context, log_snr) = build("looped", block, "relay")
        (given,) = network(inputs, labels, context, log_snr, (2,))
        (changed,) = network(inputs, labels + 7, context, log_snr, (2,))
        assert torch.equal(given.prediction, changed.prediction)


@pytest.mark.parametrize("block", BLOCKS)
def test_injection_brings_the_input_back_into_a_foreign_state(block):
    for injected in (False, True):
        network, call = build("looped", block, input_injection=injected)
        inputs, *others = call
        state, conditioning = network.embed(*call)
        _, changed = network.embed(inputs + 1, *others)
        same = torch.equal(network.loop(state, conditioning, 2), network.loop(state, changed, 2))
        assert same == (not injected)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize(
    ("depth", "options", "knows"),
    [
        ("looped", {}, False),
        ("looped", {"loop_embedding": True}, True),
        ("looped", {"loop_conditioning": True}, True),
        ("looped", {"loop_adapter_rank": 1}, True),
        ("universal", {}, True),
    ],
    ids=["looped", "loop embedding", "loop conditioning", "loop adapters", "universal"],
)
def test_a_loop_knows_its_index_only_where_asked(depth, options, knows, block):
    network, call = build(depth, block, **options)
    state, conditioning = network.embed(*call)
    first, second = (network.loop(state, conditioning, index) for index in (1, 2))
    assert torch.equal(first, second) == (not knows)


@pytest.mark.parametrize("block", BLOCKS)
def test_bfloat16_autocast_keeps_a_float32_state(block):
    network, call = build("universal", block)
    (exact,) = network(*call, (3,), ("prediction", "state", "ponder"))
    with torch.autocast("cpu", torch.bfloat16):
        (output,) = network(*call, (3,), ("prediction", "state", "ponder"))
    assert output.state.dtype == output.ponder.dtype == torch.float32
    relative = (output.state - exact.state).norm() / exact.state.norm()
    assert 0 < relative < 0.03


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # of torch's own tracing
@pytest.mark.parametrize("block", BLOCKS)
def test_a_new_loop_count_never_recompiles_the_block(block):
    network, call = build("looped", block)
    expected, names = network(*call, (12,))[0].prediction, list(network.state_dict())
    torch.compiler.reset()
    counter = CompileCounter()
    network.compile_block(backend=counter)
    graphs = set()
    for loops in range(1, 13):
        (output,) = network(*call, (loops,))
        graphs.add(counter.frame_count)
    assert graphs == {1}
    torch.testing.assert_close(output.prediction, expected)
    assert list(network.state_dict()) == names
