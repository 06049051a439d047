"""What a backend gives to be timed: networks with weights of no meaning, as fast as this package can run them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from eltbench.accounting import NetworkSpec
from eltbench.core.registry import Registry
from eltbench.tasks.base import Batch, Ops, Predict

Call = Callable[[], Any]


class Body(NamedTuple):
    """All that decides how long a network call takes."""

    network: NetworkSpec
    loops: int
    batch: int
    precision: str
    mode: str


def random_batch(body: Body) -> Batch:
    """What a timed call is given, on the host."""
    spec, draw = body.network.data, np.random.default_rng(0)
    inputs: np.ndarray
    if spec.kind == "continuous":
        inputs = draw.standard_normal((body.batch, *spec.grid, spec.channels), np.float32)
    else:
        inputs = draw.integers(spec.vocabulary + 1, size=(body.batch, spec.tokens), dtype=np.int32)
    context = np.zeros((body.batch, spec.tokens), np.int32) if spec.context_vocabulary else None
    log_snr = np.zeros(body.batch, np.float32) if body.network.timed else None
    return Batch(inputs, np.zeros(body.batch, np.int32), context, log_snr, None, None)


class Speed(Protocol):
    """Calls on one device, in one of its `modes` (ValueError for another); `wait` takes the last result of a call."""

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
        """Return when all earlier calls are done."""


registry: Registry[Speed] = Registry(
    "backend that can be timed",
    "speeds",
    {"torch": "eltbench.backends.torch.speed:TorchSpeed", "jax": "eltbench.backends.jax.speed:JaxSpeed"},
)
