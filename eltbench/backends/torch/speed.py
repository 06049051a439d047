"""Torch networks to be timed at inference: weights converted once, attention fused, the loop bare."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from eltbench.backends.speed import Body, Call
from eltbench.backends.torch.graphs import captured
from eltbench.backends.torch.network import Network
from eltbench.backends.torch.ops import TorchOps
from eltbench.backends.torch.parallel import available_device
from eltbench.backends.torch.precision import converted
from eltbench.core.arrays import Array
from eltbench.tasks.base import Predict

PATTERN = 2**20  # values that are drawn; all weights repeat them, which is faster than drawing a billion


class TorchSpeed:
    """See `eltbench.backends.speed.Speed`: eager calls, a compiled block, and on CUDA a captured graph of the call."""

    modes = ("eager", "compiled", "cuda-graph")

    def __init__(self, device: str, threads: int) -> None:
        self.device = available_device(device)
        if self.device.type == "cpu":
            torch.set_num_threads(threads)
        self.ops = TorchOps(self.device)

    def network(self, body: Body) -> Network:
        """A network with random weights; where the precision is bf16 its linear maps are converted here, once."""
        if body.mode not in self.modes:
            raise ValueError(f"torch runs calls in the modes {', '.join(self.modes)}, given {body.mode!r}")
        if body.mode == "cuda-graph" and self.device.type != "cuda":
            raise ValueError(f"mode 'cuda-graph' needs a CUDA device, given {str(self.device)!r}")
        with torch.device("meta"):
            network = Network(body.architecture, body.depth, body.spec, timed=body.timed)
        if body.precision == "bf16":
            converted(network)
        network = network.to_empty(device=self.device).eval().requires_grad_(False)
        pattern = 0.02 * torch.randn(PATTERN, generator=torch.Generator().manual_seed(0)).to(self.device)
        for tensor in (*network.parameters(), *network.buffers()):
            for part in tensor.view(-1).split(PATTERN):
                part.copy_(pattern[: len(part)])
        if body.mode == "compiled":
            network.compile_block()
        return network

    def predict(self, body: Body) -> Predict:
        network, precision = self.network(body), self.autocast(body)

        def predict(inputs: Array, labels: Array, log_snr: Array, context: Array, loops: int) -> Array:
            with torch.inference_mode(), precision():
                return network(inputs, labels, context, log_snr, (loops,))[0].prediction.float()

        return predict

    def call(self, body: Body) -> Call:
        network, inputs, precision = self.network(body), self.inputs(body), self.autocast(body)

        @torch.inference_mode()
        def call() -> Tensor:
            with precision():
                return network(*inputs, (body.loops,))[0].prediction

        return captured(call, self.device) if body.mode == "cuda-graph" else call

    def blocks(self, body: Body) -> Call:
        network, precision = self.network(body), self.autocast(body)
        with torch.inference_mode(), precision():
            initial, conditioning = network.embed(*self.inputs(body))

        @torch.inference_mode()
        def call() -> Tensor:
            state = initial
            with precision():
                for index in range(1, body.loops + 1):
                    state = network.loop(state, conditioning, index)
            return state

        return captured(call, self.device) if body.mode == "cuda-graph" else call

    def unhoisted(self, body: Body) -> Call:
        network, inputs, precision = self.network(body), self.inputs(body), self.autocast(body)

        @torch.inference_mode()
        def call() -> Tensor:
            with precision():
                state, conditioning = network.embed(*inputs)
                for index in range(1, body.loops + 1):
                    if index > 1:  # `embed` has made those of the first loop
                        activated = F.silu(conditioning.vector)
                        again = tuple(block.modulate(activated) for block in network.blocks)  # type: ignore[operator]
                        conditioning = conditioning._replace(blocks=again)
                    state = network.loop(state, conditioning, index)
                return network.read(state, conditioning)

        return captured(call, self.device) if body.mode == "cuda-graph" else call

    def wait(self, last: Any) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def inputs(self, body: Body) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Random inputs, labels, context, noise levels."""
        spec, draw = body.spec, torch.Generator().manual_seed(0)
        if spec.kind == "continuous":
            inputs = torch.randn((body.batch, *spec.grid, spec.channels), generator=draw)
        else:
            inputs = torch.randint(spec.vocabulary + 1, (body.batch, spec.tokens), generator=draw)
        labels = torch.zeros(body.batch, dtype=torch.int64).to(self.device)
        context = torch.zeros_like(inputs).to(self.device) if spec.context_vocabulary else None
        log_snr = torch.zeros(body.batch).to(self.device) if body.timed else None
        return inputs.to(self.device), labels, context, log_snr

    def autocast(self, body: Body) -> Callable[[], contextlib.AbstractContextManager]:
        """The precision of the matrix products, as the engine has it: norms stay in float32."""
        if body.precision == "fp32":
            return contextlib.nullcontext
        return lambda: torch.autocast(self.device.type, dtype=torch.bfloat16)
