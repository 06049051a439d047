"""A pass in torch that is taken loop by loop, of which items may leave."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor

from eltbench.backends.steps import Steps, select_items
from eltbench.backends.torch.network import Network
from eltbench.tasks.base import Batch, ExitOutput


class TorchSteps(Steps):
    """A pass of a network over an uploaded batch; `precision` makes the context in which it computes."""

    @torch.inference_mode()
    def __init__(self, network: Network, batch: Batch, precision: Callable[[], AbstractContextManager]) -> None:
        self._network, self._precision, self._loops = network, precision, 0
        with precision():
            self._carry, self._conditioning = network.begin(*batch.given, batch.dropped)

    @property
    def initial(self) -> Tensor:
        return self._carry.state[:, self._network.prefix :].float()

    @torch.inference_mode()
    def advance(self, fields: tuple[str, ...]) -> ExitOutput:
        self._loops += 1
        with self._precision():
            self._carry = self._network.advance(self._carry, self._conditioning, self._loops)
            output = self._network.output(self._carry, self._conditioning, fields) if fields else ExitOutput()
        return ExitOutput(*(None if field is None else field.float() for field in output))

    @torch.inference_mode()
    def keep(self, places: np.ndarray) -> None:
        kept = torch.as_tensor(places, device=self._carry.state.device)
        self._carry, self._conditioning = select_items((self._carry, self._conditioning), kept)
