"""The looped map of one batch in torch, with its derivative."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from eltbench.backends.base import Recurrence
from eltbench.backends.torch.network import Network
from eltbench.tasks.base import Batch


class TorchRecurrence(Recurrence):
    """The recurrence of a network on an uploaded batch, usable also inside `torch.inference_mode`.

    Everything is in float32, whatever the run's precision: a perturbation of 1 % has no digits left in bfloat16.
    """

    def __init__(self, network: Network, batch: Batch) -> None:
        self.network, self.solver = network, network.solver
        with torch.inference_mode(False), torch.no_grad():
            self.initial, self.conditioning = network.embed(*batch.given)  # (B, P + T, D)

    @torch.no_grad()
    def loop(self, state: Tensor, index: int) -> Tensor:
        return self.network.loop(state, self.conditioning, index)

    @torch.no_grad()
    def read(self, state: Tensor) -> Tensor:
        return self.network.read(state, self.conditioning)

    def jacobian(self, state: Tensor, index: int) -> Callable[[Tensor], Tensor]:
        """J·v as the derivative in u, along v, of u ↦ Jᵀu, which is linear: two reverse passes, the first made once.

        Exact like forward mode and several times faster: torch's forward mode spends its time in Python on the zero
        tangents of the weights.
        """
        # Second derivatives exist for the plain attention kernel only, and not for compiled blocks. Where nothing was
        # compiled, the compiler is not loaded for this: it takes a second or two.
        compiled = "torch._dynamo" in sys.modules
        eager = torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext()
        kernel = sdpa_kernel(SDPBackend.MATH)
        with torch.inference_mode(False), torch.enable_grad(), kernel, eager:
            point = state.clone().requires_grad_()  # the clone of an inference tensor is an ordinary one
            cotangent = torch.zeros_like(point, requires_grad=True)
            looped = self.network.loop(point, self.conditioning, index)
            (transposed,) = torch.autograd.grad(looped, point, cotangent, create_graph=True)

        def product(vector: Tensor) -> Tensor:
            (image,) = torch.autograd.grad(transposed, cotangent, vector, retain_graph=True)
            return image

        return product
