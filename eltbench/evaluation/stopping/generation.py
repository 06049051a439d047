"""Signals summed over a sampling trajectory, and stopping inside sampling, where the loop count varies along the way.

Samples of one seed are drawn under the same noise whatever the rule, so that a stopped trajectory can be held against
the full one. All exits of every call are computed here, also those that a rule would skip: what it would have run is
counted, not saved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist
from scipy.special import softmax

from eltbench.core.arrays import Array
from eltbench.core.streams import stream
from eltbench.data import form
from eltbench.data.latin import Latin, valid
from eltbench.evaluation.quality.distances import reference
from eltbench.evaluation.quality.features import extract
from eltbench.evaluation.signals.exit_trace import Trace, estimated, observed_fields
from eltbench.evaluation.signals.probe import Gate
from eltbench.evaluation.signals.uncertainty import measure
from eltbench.evaluation.stopping import rules as stopping
from eltbench.tasks.base import Batch
from eltbench.training.model import Model


@dataclass(frozen=True)
class Generated:
    """n samples and what was seen on their way."""

    path: np.ndarray  # (steps, n, …), the states after each step on the host
    signals: dict[str, np.ndarray]  # {name: (steps, E, n)} at each step and exit
    loops: np.ndarray  # (steps, n), those that each item ran
    noise: np.ndarray  # (steps,), of the states that each step began with: -log-SNR, or the share of masked tokens

    @property
    def samples(self) -> np.ndarray:
        """The samples (n, …): the last states."""
        return self.path[-1]

    def summed(self) -> dict[str, np.ndarray]:
        """Every signal at the deepest exit summed over the trajectory {name: (n,)}, but for those not defined there."""
        totals = {name: values[:, -1].sum(axis=0) for name, values in self.signals.items()}
        return {name: total for name, total in totals.items() if not np.isnan(self.signals[name][:, -1]).all()}


def generate(
    model: Model,
    labels: np.ndarray,
    exits: Sequence[int],
    *,
    seed: int = 0,
    sampling: Mapping[str, Any] | None = None,
    rule: str | None = None,
    threshold: float = -np.inf,
    gate: Gate | None = None,
) -> Generated:
    """One sample per label; with a rule each item stops looping at every step where the rule says so.

    Signals are those of one pass, without the state before the first loop: all of them, or those that the rule reads.
    gate: of the rule "learned-gate". Raises ValueError for impossible exits, a rule that needs more than such signals
    or the loop count, a gate missing, and guidance, under which a step has two predictions.
    """
    exits = model.exits(exits)
    settings = model.task.sampling(**(sampling or {}))
    if settings.guidance_scale != 1.0:
        raise ValueError(f"generate: signals are of one prediction a step, given guidance {settings.guidance_scale}")
    if (gate is not None) != (rule == "learned-gate"):
        raise ValueError(f"generate: a gate belongs to the rule 'learned-gate' alone, given {gate} with {rule!r}")
    labels = form.labels(labels, model.spec, "generate")
    engine, spec = model.engine, model.spec
    told = None if rule is None else stopping.get(rule)
    signals: list[dict[str, np.ndarray]] = []
    loops: list[np.ndarray] = []
    noise: list[float] = []

    def predict(inputs: Array, labels: Array, log_snr: Array, context: Array, _: int) -> Array:
        batch = Batch(inputs, labels, context, log_snr, None, None)
        outputs = engine.predict(batch, exits, observed_fields(model.trainer.depth))
        if spec.kind == "tokens":
            hidden = engine.numpy(inputs) == spec.vocabulary
            trace = Trace("tokens", hidden=hidden, level=hidden.mean(axis=1), numpy=engine.numpy)
        else:
            trace = Trace("continuous", level=-engine.numpy(log_snr).astype(np.float64), numpy=engine.numpy)
        for exit, output in zip(exits, outputs, strict=True):
            trace.append(exit, estimated(model.task, output, batch))
        measured = measure(trace, None if told is None else told.reads(gate))
        stop = np.full(trace.items, len(exits) - 1)
        if told is not None:
            stop = stopping.stops(told.values(measured, exits, trace.items, gate), threshold, told.hits)
        signals.append(measured)
        loops.append(np.asarray(exits)[stop])
        noise.append(float(np.asarray(trace.level).mean()))
        if (stop == len(exits) - 1).all():
            return outputs[-1].prediction
        predictions = np.stack([engine.numpy(output.prediction) for output in outputs])  # (E, B, …)
        return engine.ops.asarray(predictions[stop, np.arange(trace.items)])

    rng = stream(model.run.dataset, seed, "sampling")
    states = model.task.sample(predict, spec, labels, exits[-1], rng, engine.ops, settings)
    path = np.stack([engine.numpy(state) for state in states])
    return Generated(
        path, {name: np.stack([of[name] for of in signals]) for name in signals[0]}, np.stack(loops), np.array(noise)
    )


def sample_errors(model: Model, samples: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """How bad each sample is {name: (n,)}, by outside judges.

    Images: 1 - the digit classifier's probability of the sample's own label, and the distance of its early features to
    the nearest held-out image. latin: 1 where it is no Latin square. Nothing for other worlds.
    """
    if isinstance(model.dataset, Latin):
        return {"invalid": 1.0 - valid(samples)}
    images = model.dataset.images(samples)
    if images is None:
        return {}
    real = extract(reference(model.dataset, len(model.dataset.heldout().labels))).maps
    seen = extract(images)
    own = softmax(seen.logits, axis=1)[np.arange(len(labels)), labels]
    return {"own_label_missed": 1.0 - own, "distance_to_real": cdist(seen.maps, real).min(axis=1)}


def best_of(signal: np.ndarray, labels: np.ndarray, share: float) -> np.ndarray:
    """Positions of the share of samples of each label with the lowest signal, at least one of each."""
    chosen = []
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        count = max(1, round(share * len(places)))
        chosen.append(places[np.argsort(signal[places], kind="stable")[:count]])
    return np.sort(np.concatenate(chosen))


def distance(samples: np.ndarray, full: np.ndarray) -> np.ndarray:
    """How far stopped samples are from those of all loops (n,): root mean square, or share of tokens that differ."""
    if np.issubdtype(full.dtype, np.integer):
        return (samples != full).reshape(len(full), -1).mean(axis=1)
    return np.sqrt(((samples - full).astype(np.float64) ** 2).reshape(len(full), -1).mean(axis=1))
