"""AdamW by torch's own function: its optimiser class would load the compiler, over a second in every process."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from eltbench.core.config import Optimisation


class AdamW:
    """The moments of some parameters, in their order, and the steps that were taken; fused where a device has that."""

    def __init__(self, parameters: Iterable[Tensor], optimisation: Optimisation) -> None:
        self.parameters, self._optimisation = list(parameters), optimisation
        self.moments = {
            name: [torch.zeros_like(each, requires_grad=False) for each in self.parameters]
            for name in ("exp_avg", "exp_avg_sq")
        }
        self.steps = [torch.zeros((), device=each.device) for each in self.parameters]
        self._decays: dict[float, list[int]] = {}  # weight decay → the places of the parameters that it is of
        for place, each in enumerate(self.parameters):
            self._decays.setdefault(optimisation.decay_of(each.ndim), []).append(place)

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Take one step along the parameters' gradients, every one of which must be there."""
        first, second = self._optimisation.betas
        for decay, places in self._decays.items():
            parameters = [self.parameters[place] for place in places]
            adamw(
                parameters,
                [each.grad for each in parameters if each.grad is not None],
                [self.moments["exp_avg"][place] for place in places],
                [self.moments["exp_avg_sq"][place] for place in places],
                [],
                [self.steps[place] for place in places],
                fused=True,
                foreach=False,
                grad_scale=None,
                found_inf=None,
                amsgrad=False,
                beta1=first,
                beta2=second,
                lr=learning_rate,
                weight_decay=decay,
                eps=1e-8,
                maximize=False,
            )
