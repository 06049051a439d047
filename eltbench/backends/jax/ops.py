"""What tasks and trainers ask of JAX beyond the Array API."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import numpy as np
import optax
from jax import Array


@dataclass(frozen=True)
class JaxOps:
    """The `Ops` of JAX on one device, or alike on each of several (see eltbench.tasks.base.Ops)."""

    device: jax.Device | jax.sharding.Sharding

    def cross_entropy(self, logits: Array, targets: Array) -> Array:
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets)

    def log_softmax(self, logits: Array) -> Array:
        return jax.nn.log_softmax(logits, axis=-1)

    def stop_gradient(self, array: Array) -> Array:
        return jax.lax.stop_gradient(array)

    def asarray(self, array: np.ndarray) -> Array:
        return jax.device_put(np.array(array), self.device)  # a copy; 64 bits become 32
