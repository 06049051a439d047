"""Torch networks to be timed at inference: weights converted once, attention fused, the loop bare."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from eltbench.backends.speed import Body, Call, random_batch
from eltbench.backends.torch.graphs import captured
from eltbench.backends.torch.network import Network
from eltbench.backends.torch.ops import TorchOps
from eltbench.backends.torch.parallel import available_device
from eltbench.backends.torch.precision import autocast, converted
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
            network = Network(body.network)
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
        network = self.network(body)

        def predict(inputs: Array, labels: Array, log_snr: Array, context: Array, loops: int) -> Array:
            with torch.inference_mode(), autocast(self.device, body.precision):
                return network(inputs, labels, context, log_snr, (loops,))[0].prediction.float()

        return predict

    def call(self, body: Body) -> Call:
        network, inputs = self.network(body), self.inputs(body)
        return self._ready(body, lambda: network(*inputs, (body.loops,))[0].prediction)

    def blocks(self, body: Body) -> Call:
        network = self.network(body)
        with torch.inference_mode(), autocast(self.device, body.precision):
            initial, conditioning = network.embed(*self.inputs(body))

        def call() -> Tensor:
            state = initial
            for index in range(1, body.loops + 1):
                state = network.loop(state, conditioning, index)
            return state

        return self._ready(body, call)

    def unhoisted(self, body: Body) -> Call:
        network, inputs = self.network(body), self.inputs(body)

        def call() -> Tensor:
            state, conditioning = network.embed(*inputs)
            for index in range(1, body.loops + 1):
                if index > 1:  # `embed` has made those of the first loop
                    activated = F.silu(conditioning.vector)
                    again = tuple(block.modulate(activated) for block in network.blocks)  # type: ignore[operator]
                    conditioning = conditioning._replace(blocks=again)
                state = network.loop(state, conditioning, index)
            return network.read(state, conditioning)

        return self._ready(body, call)

    def wait(self, last: Any) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def inputs(self, body: Body) -> tuple[Any, ...]:
        return tuple(None if each is None else self.ops.asarray(each) for each in random_batch(body).given)

    def _ready(self, body: Body, function: Callable[[], Tensor]) -> Call:
        """The function in its precision, and where the mode says so as a CUDA graph."""

        @torch.inference_mode()
        def call() -> Tensor:
            with autocast(self.device, body.precision):
                return function()

        return captured(call, self.device) if body.mode == "cuda-graph" else call
