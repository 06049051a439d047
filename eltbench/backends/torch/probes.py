"""What torch runs to find a machine's ceilings: single products, reads, copies and empty kernels."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from eltbench.backends.speed import Call
from eltbench.backends.torch.graphs import captured
from eltbench.backends.torch.parallel import available_device

PATTERN = 2**18
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class TorchProbes:
    """See `eltbench.evaluation.speed.ceilings.Probes`."""

    def __init__(self, device: str, threads: int) -> None:
        self.device = available_device(device)
        if self.device.type == "cpu":
            torch.set_num_threads(threads)

    def product(self, vectors: int, inputs: int, outputs: int, precision: str, weights: int = 1) -> Call:
        """Linear maps with their biases on the same vectors, one for each of so many weights in turn."""
        x = self._drawn(precision, vectors, inputs)
        first = self._drawn(precision, outputs, inputs), self._drawn(precision, outputs)
        maps = [first, *((first[0].clone(), first[1].clone()) for _ in range(weights - 1))]

        def products() -> Tensor:
            for weight, bias in maps:
                last = F.linear(x, weight, bias)
            return last

        return torch.inference_mode()(products)

    def attention(self, items: int, tokens: int, width: int, heads: int, precision: str) -> Call:
        """Fused attention among the tokens of each item."""
        queries, keys, values = (self._drawn(precision, items, heads, tokens, width // heads) for _ in range(3))
        return torch.inference_mode()(lambda: F.scaled_dot_product_attention(queries, keys, values))

    def read(self, size: int, times: int = 1) -> Call:
        """Read so many bytes so many times: sums of rows that are the same memory."""
        values = torch.ones(max(1, size // 4), device=self.device).expand(times, -1)
        return torch.inference_mode()(lambda: values.sum(1))

    def copy(self, size: int) -> Call:
        """Copy half of so many bytes onto the other half."""
        values = torch.ones(2, max(1, size // 8), device=self.device)
        return torch.inference_mode()(lambda: values[1].copy_(values[0]))

    def launch(self) -> Call:
        """A kernel that does next to nothing."""
        value = torch.ones(1, device=self.device)
        return torch.inference_mode()(lambda: value.add_(1.0))

    def repeated(self, call: Call, times: int) -> Call:
        """So many calls in a row; on CUDA as one graph, so that what is timed is not their launches."""

        def burst() -> Any:
            for _ in range(times):
                last = call()
            return last

        return captured(burst, self.device) if self.device.type == "cuda" else burst

    def matmul(self) -> str:
        """How float32 products are computed (`highest`: in float32; else coarser), as torch is set here."""
        tf32 = self.device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32
        return torch.get_float32_matmul_precision() + (", TF32 allowed" if tf32 else "")

    def wait(self, last: Any) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def accelerator(self) -> dict[str, Any] | None:
        """Name, memory and last level of cache of a CUDA device in bytes (where known); None on a CPU."""
        if self.device.type != "cuda":
            return None
        known = torch.cuda.get_device_properties(self.device)
        caches = {"L2": known.L2_cache_size} if known.L2_cache_size > 0 else {}
        return {"name": known.name, "memory": known.total_memory, "caches": caches}

    def _drawn(self, precision: str, *size: int) -> Tensor:
        """Random values, of which no more than PATTERN are drawn; a larger array repeats them."""
        count = math.prod(size)
        pattern = torch.randn(min(count, PATTERN), generator=torch.Generator().manual_seed(0))
        values = pattern.to(self.device, DTYPES[precision])
        return values.repeat(-(-count // PATTERN))[:count].reshape(size)
