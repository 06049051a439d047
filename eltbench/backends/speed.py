"""What a backend gives to be timed: networks with weights of no meaning, as fast as this package can run them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from eltbench.accounting import Depth
from eltbench.core.config import Architecture
from eltbench.core.registry import Registry
from eltbench.data.base import DataSpec
from eltbench.tasks.base import Ops, Predict

Call = Callable[[], Any]


class Body(NamedTuple):
    """All that decides how long a network call takes."""

    architecture: Architecture
    depth: Depth
    spec: DataSpec
    timed: bool
    loops: int
    batch: int
    precision: str
    mode: str


class Speed(Protocol):
    """Calls on one device. A mode that the backend does not have raises ValueError, memory that is short MemoryError.

    modes: ways of running a call. Calls return before the device is done; `wait` takes the last result.
    """

    modes: tuple[str, ...]
    ops: Ops

    def __init__(self, device: str, threads: int) -> None: ...

    def predict(self, body: Body) -> Predict:
        """The network as samplers call it."""

    def call(self, body: Body) -> Call:
        """One network call on a fixed batch."""

    def blocks(self, body: Body) -> Call:
        """The loops of one call alone: no embedding, modulation or head."""

    def unhoisted(self, body: Body) -> Call:
        """One call that makes the modulation anew in every loop."""

    def wait(self, last: Any) -> None:
        """Return when all that was asked is done."""


registry: Registry[Speed] = Registry(
    "backend that can be timed",
    "speeds",
    {"torch": "eltbench.backends.torch.speed:TorchSpeed", "jax": "eltbench.backends.jax.speed:JaxSpeed"},
)
