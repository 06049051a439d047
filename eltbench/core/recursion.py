"""How often one network is applied in a loop that improves two states in turn."""

from __future__ import annotations

from dataclasses import dataclass, fields

from eltbench.core.config import Architecture, check_settings
from eltbench.core.validation import whole

ONE_NETWORK = {
    "loop_embedding": False,
    "loop_conditioning": False,
    "loop_adapter_rank": 0,
    "prelude": 0,
    "coda": 0,
    "recall": "before",
}
"""What it takes for every application to be of the same network; it ends in a norm by itself."""


@dataclass(frozen=True)
class Recursion:
    """A loop of the tiny recursive model (arXiv 2510.04871): T recursions of n updates of z, then one of y."""

    latent_steps: int = 6  # n
    recursions: int = 3  # T

    def __post_init__(self) -> None:
        for each in fields(self):
            if not whole(given := getattr(self, each.name)) or given < 1:
                raise ValueError(f"recursion: {each.name} must be a whole number of at least 1, given {given!r}")

    @property
    def applications(self) -> int:
        """How often the network is applied in a loop, T (n + 1)."""
        return self.recursions * (self.latent_steps + 1)


USUAL = Recursion()  # the paper's


def check_recursion(architecture: Architecture) -> None:
    """Raise ValueError for an architecture whose layers differ from loop to loop."""
    check_settings(architecture, ONE_NETWORK, "a recursion applies one and the same network throughout")
