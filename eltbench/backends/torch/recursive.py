"""Recursive depth: the block improves an answer and a latent state in turn."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from eltbench.accounting import NetworkSpec
from eltbench.backends import positions
from eltbench.backends.steps import Carry, Conditioning
from eltbench.backends.torch.initialisation import initialise
from eltbench.backends.torch.network import Network
from eltbench.core.fixed_point import Solver
from eltbench.tasks.base import ExitOutput


class RecursiveNetwork(Network):
    """A network whose loop is a supervised step of the tiny recursive model (see `eltbench.trainers.trm`).

    The state is (B, P + T, 2 D), the answer y before the latent z; `Conditioning.injected` is the embedded input x.
    """

    first: Tensor  # (2 D,)

    def __init__(
        self, spec: NetworkSpec, *, generator: torch.Generator | None = None, solver: Solver | None = None
    ) -> None:
        super().__init__(spec, generator=generator, solver=solver)
        width = spec.architecture.width
        self.judge = nn.Linear(width, 1)
        initialise(nn.ModuleDict({"judge": self.judge}), generator, zero_head=False)
        self.register_buffer("first", torch.tensor(positions.first_states(width)), persistent=False)

    def embed(
        self,
        inputs: Tensor,
        labels: Tensor,
        context: Tensor | None,
        log_snr: Tensor | None,
        dropped: Tensor | None = None,
    ) -> tuple[Tensor, Conditioning]:
        embedded, conditioning = super().embed(inputs, labels, context, log_snr, dropped)
        given = embedded if conditioning.injected is None else conditioning.injected
        return self.first.expand(*embedded.shape[:2], -1), conditioning._replace(injected=given)

    def loop(self, state: Tensor, conditioning: Conditioning, index: int) -> Tensor:
        """The state (B, P + T, 2 D) after a loop, the same map for every index, with its whole gradient."""
        return self._recursed(state, conditioning, self.spec.recursion.recursions)

    def advance(self, carry: Carry, conditioning: Conditioning, index: int) -> Carry:
        """What comes out of a loop, with the gradient of its last recursion."""
        with torch.no_grad():
            state = self._recursed(carry.state, conditioning, self.spec.recursion.recursions - 1)
        return Carry(self._recursed(state.detach(), conditioning, 1), None, None)

    def read(self, state: Tensor, conditioning: Conditioning) -> Tensor:
        """The prediction, from the answer alone."""
        return super().read(state.chunk(2, dim=-1)[0], conditioning)

    def output(self, carry: Carry, conditioning: Conditioning, fields: tuple[str, ...]) -> ExitOutput:
        output = super().output(carry, conditioning, fields)
        if "halting" not in fields:
            return output
        answer = carry.state[:, self.prefix :].chunk(2, dim=-1)[0]  # (B, T, D)
        return output._replace(halting=self.judge(answer.mean(dim=1)).expand(-1, answer.shape[1]))

    def _recursed(self, state: Tensor, conditioning: Conditioning, times: int) -> Tensor:
        given, plain, block = conditioning.injected, conditioning._replace(injected=None), super().loop
        assert given is not None
        answer, latent = state.chunk(2, dim=-1)
        for _ in range(times):
            for _ in range(self.spec.recursion.latent_steps):
                latent = block(latent + answer + given, plain, 1)
            answer = block(answer + latent, plain, 1)
        return torch.cat([answer, latent], dim=-1)


def network_of(spec: NetworkSpec, *, generator: torch.Generator | None = None, solver: Solver | None = None) -> Network:
    """The network of this depth scheme (see `Network`)."""
    made = RecursiveNetwork if spec.depth == "recursive" else Network
    return made(spec, generator=generator, solver=solver)
