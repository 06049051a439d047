"""What tasks and trainers ask of torch beyond the Array API."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


class TorchOps:
    """The `Ops` of torch on one device (see eltbench.tasks.base.Ops)."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    def cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        """-ln p(target), fused: logits (..., V), integer targets (...) -> (...)."""
        flat = F.cross_entropy(logits.flatten(0, -2), targets.flatten().long(), reduction="none")
        return flat.view(targets.shape)

    def log_softmax(self, logits: Tensor) -> Tensor:
        """Over the last axis."""
        return F.log_softmax(logits, dim=-1)

    def stop_gradient(self, array: Tensor) -> Tensor:
        """The same values, constant to differentiation."""
        return array.detach()

    def asarray(self, array: np.ndarray) -> Tensor:
        """A copy of a host array on this device, of the same type."""
        return torch.tensor(array, device=self.device)
