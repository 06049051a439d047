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
        flat = F.cross_entropy(logits.flatten(0, -2), targets.flatten().long(), reduction="none")
        return flat.view(targets.shape)

    def log_softmax(self, logits: Tensor) -> Tensor:
        return F.log_softmax(logits, dim=-1)

    def stop_gradient(self, array: Tensor) -> Tensor:
        return array.detach()

    def asarray(self, array: np.ndarray) -> Tensor:
        return torch.tensor(array, device=self.device)
