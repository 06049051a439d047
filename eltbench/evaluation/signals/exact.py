"""Worlds whose posterior is known: what of a prediction's loss nobody could avoid, and what is the model's own.

The expected loss of a prediction q of a hidden token is H(p) + KL(p ‖ q) with p the exact posterior: the entropy is
irreducible, the divergence is the model's error and does not depend on how the token happened to fall.
"""

from __future__ import annotations

import numpy as np
from scipy.special import entr, log_softmax

from eltbench.data.base import Clean
from eltbench.data.latin import Latin, posterior
from eltbench.data.relay import Relay, reachable
from eltbench.tasks.base import Batch
from eltbench.training.model import Model


def exact_posterior(model: Model, batch: Batch, loops: int) -> np.ndarray | None:
    """p(token | what is seen) (B, T, V) for a host batch, or None where the world's posterior is not known.

    latin: by enumeration, whatever the loops. relay: given what a network of this depth can see at this exit, by the
    theorem of `data.relay`: the colour itself within N·L·ρ cells of the revealed one, and all colours alike beyond.
    """
    dataset = model.dataset
    if isinstance(dataset, Latin):
        return posterior(batch.inputs)
    if not isinstance(dataset, Relay):
        return None
    shape = model.run.architecture
    distances = dataset.strata(Clean(batch.target, batch.labels, batch.context, batch.weight > 0))  # (B, T)
    seen = np.array(
        [reachable(d, shape.unique_layers, loops, shape.attention_radius) for d in range(dataset.length + 1)]
    )
    known = np.eye(dataset.colours)[batch.target]  # (B, T, V)
    return np.where(seen[distances][..., None], known, 1 / dataset.colours)


def loss_apart(exact: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """KL(p ‖ q), the model's error, and H(p), irreducible, of every token (…, T) in nats; p and logits (…, T, V)."""
    log_q = np.where(exact > 0, log_softmax(np.asarray(logits, np.float64), axis=-1), 0.0)  # 0·ln 0 = 0
    entropy = entr(exact).sum(axis=-1)
    return -(exact * log_q).sum(axis=-1) - entropy, entropy
