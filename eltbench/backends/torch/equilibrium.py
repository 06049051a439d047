"""How gradients flow through a fixed point."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from eltbench.core.fixed_point import Solver


def phantom_gradient(solver: Solver, function: Callable[[Tensor], Tensor], state: Tensor) -> Tensor:
    """The state itself, with the gradient of k damped steps z ← z + λ (f(z) - z) from it (arXiv 2111.05177).

    At a fixed point z = f(z, θ) with J = ∂f/∂z that is λ Σ_{i<k} (1 - λ + λ J)^i ∂f/∂θ, which tends to the implicit
    gradient (1 - J)⁻¹ ∂f/∂θ as k grows, where the damped steps contract; k = 1 and λ = 1 leave J out.
    """
    if not torch.is_grad_enabled():
        return state
    state = point = state.detach()
    for _ in range(solver.phantom_steps):
        point = torch.lerp(point, function(point), solver.damping)
    return state + (point - point.detach())
