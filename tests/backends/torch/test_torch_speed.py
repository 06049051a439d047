"""What is timed in torch computes what it should: the engine's numbers, hoisted or not, and its peers' blocks too."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import weakref
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from eltbench.accounting import NetworkSpec
from eltbench.backends.speed import Body, registry
from eltbench.backends.torch import graphs, peers
from eltbench.backends.torch.blocks import BertBlock, DiTBlock
from eltbench.backends.torch.precision import converted
from eltbench.backends.torch.probes import TorchProbes
from eltbench.backends.torch.speed import TorchSpeed
from eltbench.core.config import Architecture
from eltbench.data.base import DataSpec

LATENTS = DataSpec("continuous", (4, 4), channels=2, classes=3)
TOKENS = DataSpec("tokens", (4, 4), vocabulary=8, classes=3)
DIT = Body(
    NetworkSpec(Architecture(2, 3, width=16, heads=2, block="dit", patch=1), "looped", LATENTS, True),
    3,
    2,
    "fp32",
    "eager",
)
BERT = Body(
    NetworkSpec(Architecture(2, 3, width=16, heads=2, block="bert"), "looped", TOKENS, False),
    3,
    2,
    "fp32",
    "eager",
)
SPEED = TorchSpeed("cpu", 1)


@pytest.mark.parametrize("body", [DIT, BERT], ids=["dit", "bert"])
def test_a_call_gives_finite_predictions_of_the_task_s_form(body):
    found = SPEED.call(body)()
    assert found.shape == ((2, 4, 4, 2) if body.network.timed else (2, 16, 8))
    assert found.isfinite().all()
    assert found.std() > 0  # a network of zeros would be timed all the same
    assert torch.equal(found, SPEED.call(body)())


def test_modulation_made_in_every_loop_gives_the_same_prediction():
    assert torch.equal(SPEED.call(DIT)(), SPEED.unhoisted(DIT)())


def test_the_bare_loops_are_those_of_the_call():
    network = SPEED.network(BERT)
    state, conditioning = network.embed(*SPEED.inputs(BERT))
    for index in (1, 2, 3):
        state = network.loop(state, conditioning, index)
    assert torch.equal(SPEED.blocks(BERT)(), state)


@pytest.mark.parametrize("body", [DIT, BERT], ids=["dit", "bert"])
def test_weights_converted_once_give_the_numbers_of_weights_converted_in_every_call(body):
    network = SPEED.network(body)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        each_time = network(*SPEED.inputs(body), (3,))[0].prediction
        converted(network)
        once = network(*SPEED.inputs(body), (3,))[0].prediction
    assert torch.equal(once, each_time)
    assert torch.equal(SPEED.call(body._replace(precision="bf16"))(), once)


def test_samplers_call_the_same_network():
    inputs, labels, context, level = SPEED.inputs(DIT)
    assert torch.equal(SPEED.predict(DIT)(inputs, labels, level, context, 3), SPEED.call(DIT)())


def test_modes_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="modes eager, compiled, cuda-graph, given 'scan'"):
        SPEED.call(BERT._replace(mode="scan"))
    with pytest.raises(ValueError, match="'cuda-graph' needs a CUDA device, given 'cpu'"):
        SPEED.call(BERT._replace(mode="cuda-graph"))
    with pytest.raises(ValueError, match="torch has no device 'tpu'"):
        registry.get("torch")("tpu", 1)


def test_a_published_dit_block_with_our_weights_gives_our_numbers():
    architecture = Architecture(1, 1, width=16, heads=2, block="dit")
    ours, published = DiTBlock(architecture), peers.PublishedDiTBlock(architecture)
    pairs = (
        (ours.attention.qkv, published.qkv),
        (ours.attention.projection, published.projection),
        (ours.mlp.expand, published.mlp[0]),
        (ours.mlp.contract, published.mlp[2]),
        (ours.modulation, published.adaln[1]),
    )
    for one, other in pairs:
        other.load_state_dict(one.state_dict())
    x, condition = torch.randn(2, 9, 16), torch.randn(2, 16)
    modulation = ours.modulate(torch.nn.functional.silu(condition))
    torch.testing.assert_close(ours(x, modulation, None), published(x, condition))


def test_torchs_encoder_layer_with_our_weights_gives_our_numbers():
    architecture = Architecture(1, 1, width=16, heads=2, block="bert")
    ours = BertBlock(architecture)
    layer = torch.nn.TransformerEncoderLayer(
        16, 2, 64, dropout=0.0, activation="gelu", batch_first=True, norm_first=True, layer_norm_eps=1e-6
    )
    layer.self_attn.in_proj_weight, layer.self_attn.in_proj_bias = ours.attention.qkv.weight, ours.attention.qkv.bias
    layer.self_attn.out_proj.load_state_dict(ours.attention.projection.state_dict())
    layer.linear1, layer.linear2, layer.norm1, layer.norm2 = ours.mlp.expand, ours.mlp.contract, ours.norm1, ours.norm2
    x = torch.randn(2, 9, 16)
    torch.testing.assert_close(ours(x, (), None), layer(x))


@pytest.mark.parametrize("block", ["bert", "dit"])
def test_in_bf16_our_block_keeps_its_state_in_float32_and_those_of_others_are_converted_whole(block):
    architecture = Architecture(1, 1, width=16, heads=2, block=block)
    torch.manual_seed(0)
    found = {name: call() for name, call in peers.contenders(architecture, 9, 2, "cpu", "bf16").items()}
    assert found.pop("ours").dtype == torch.float32
    assert {each.dtype for each in found.values()} == {torch.bfloat16}
    assert all(each.isfinite().all() for each in found.values())


class Cuda:
    """A CUDA that records what is called while a graph is captured, and calls it again when the graph is replayed."""

    def __init__(self, monkeypatch):
        self.recorded, self.capturing, self.launches = [], False, 0
        monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: SimpleNamespace(wait_stream=lambda other: None))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(wait_stream=lambda it: None))
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=self.replay))
        monkeypatch.setattr(torch.cuda, "graph", self.graph)

    @contextlib.contextmanager
    def graph(self, graph):
        self.capturing = True
        yield
        self.capturing = False

    def launch(self, kernel):
        if self.capturing:
            self.recorded.append(kernel)
        else:
            self.launches += 1
        return kernel()

    def replay(self):
        self.launches += 1
        for kernel in self.recorded:
            kernel()


def test_calls_on_cuda_are_captured_after_a_warm_up_and_replayed_at_one_launch(monkeypatch):
    cuda, done = Cuda(monkeypatch), torch.zeros(1)
    probes = TorchProbes("cpu", 1)
    probes.device = torch.device("cuda")
    burst = probes.repeated(lambda: cuda.launch(lambda: done.add_(1)), 5)
    assert cuda.launches == 5 * graphs.WARM_UP
    assert len(cuda.recorded) == 5
    cuda.launches, before = 0, done.item()
    assert burst() is done
    assert (cuda.launches, done.item() - before) == (1, 5)


@pytest.mark.slow
def test_a_replay_holds_all_that_its_call_read_and_lets_go_of_it_with_itself(monkeypatch):
    Cuda(monkeypatch)
    read = torch.zeros(1)
    alive = weakref.ref(read)

    call = partial(torch.add, read, 1)
    replay = graphs.captured(call, torch.device("cuda"))
    del call, read
    gc.collect()
    assert alive() is not None
    del replay
    gc.collect()
    assert alive() is None


def test_calls_on_a_cpu_are_made_one_by_one():
    made = []
    burst = TorchProbes("cpu", 1).repeated(lambda: made.append(len(made)) or len(made), 4)
    assert not made
    assert burst() == 4
    assert TorchProbes("cpu", 1).matmul() == torch.get_float32_matmul_precision()


@pytest.mark.parametrize("block", ["bert", "dit"])
def test_all_peers_take_and_give_the_same_state(block):
    architecture = Architecture(1, 1, width=16, heads=2, block=block)
    found = peers.contenders(architecture, tokens=9, batch=2, device="cpu", precision="fp32")
    timm = block == "bert" and importlib.util.find_spec("timm") is not None
    assert next(iter(found)) == "ours"
    assert len(found) == 2 + timm
    assert {tuple(call().shape) for call in found.values()} == {(2, 9, 16)}
