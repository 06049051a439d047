"""A call of torch as one CUDA graph: all its kernels are launched at once, so that launching costs next to nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from eltbench.backends.speed import Call

WARM_UP = 3  # calls before the capture: libraries choose their kernels and allocate on the first


@dataclass(frozen=True)
class Replay:
    """A captured call, with all that it reads: a graph knows addresses alone, which keep nothing alive."""

    graph: torch.cuda.CUDAGraph
    result: Any
    call: Call

    def __call__(self) -> Any:
        self.graph.replay()
        return self.result


def captured(call: Call, device: torch.device) -> Call:
    """The call, captured on this CUDA device; every replay computes on the same arrays and gives the same result."""
    with torch.cuda.device(device):
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                call()
        torch.cuda.current_stream(device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = call()
    return Replay(graph, result, call)
