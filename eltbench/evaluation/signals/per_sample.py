"""The per-sample table: at every exit the error of each held-out item under each corruption, and every signal of it.

The unit is an item under one corruption. Where a world says itself which tokens are hidden, every item is corrupted
alike, and what differs is how far a token lies from what is shown: there the unit is the hidden token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import entr, log_softmax

from eltbench.core.streams import stream
from eltbench.data.base import Clean
from eltbench.data.form import check_clean
from eltbench.data.latin import Latin, posterior
from eltbench.data.relay import Relay, reachable
from eltbench.evaluation.heldout import BATCH
from eltbench.evaluation.signals.exit_trace import Trace, trace
from eltbench.evaluation.signals.further_signals import measure_further
from eltbench.evaluation.signals.uncertainty import measure, measure_members
from eltbench.tasks.base import Batch, ExitOutput
from eltbench.training.model import Model

Values = dict[str, np.ndarray]
ERRORS = ("negative_log_likelihood", "x0_error")  # that signals are to foresee: of tokens in nats, of values squared


@dataclass(frozen=True)
class PerSample:
    """What `observe` measured of n units at E exits."""

    loops: tuple[int, ...]  # (E,)
    item: np.ndarray  # (n,), as are the next three
    draw: np.ndarray
    token: np.ndarray  # -1 where the unit is the whole item
    level: np.ndarray  # how far it is corrupted, or its distance
    errors: Values  # {name: (E, n)}, the first is to be foreseen; `model_error`, `irreducible` where they are known
    signals: Values  # {name: (E, n)}, NaN at exits where a signal is not defined or not measured

    @property
    def target(self) -> str:
        """The name of the error to be foreseen: negative log-likelihood in nats, or the mean square error of x_0."""
        return next(iter(self.errors))

    @property
    def error(self) -> np.ndarray:
        """The error to be foreseen (E, n)."""
        return self.errors[self.target]

    def at(self, loops: int) -> int:
        """The position of the exit after so many loops."""
        return self.loops.index(loops)

    def up_to(self, loops: int) -> PerSample:
        """The exits up to that after so many loops."""
        end = self.at(loops) + 1
        errors, signals = ({name: of[:end] for name, of in kept.items()} for kept in (self.errors, self.signals))
        return replace(self, loops=self.loops[:end], errors=errors, signals=signals)

    def table(self) -> pd.DataFrame:
        """One line a unit and exit: loops, item, draw, token, level, errors and signals (float32)."""
        exits, units = len(self.loops), len(self.item)
        known = {"item": self.item, "draw": self.draw, "token": self.token, "level": self.level.astype(np.float32)}
        measured = {**self.errors, **{f"signal_{name}": of for name, of in self.signals.items()}}
        return pd.DataFrame(
            {
                "loops": np.repeat(self.loops, units),
                **{name: np.tile(of, exits) for name, of in known.items()},
                **{name: of.astype(np.float32).ravel() for name, of in measured.items()},
            }
        )


def observe(
    model: Model,
    exits: Sequence[int],
    draws: int,
    *,
    members: Mapping[str, Sequence[Model]] | None = None,
    further: Sequence[int] = (),
    dropout_passes: int = 0,
    by_token: bool = False,
) -> PerSample:
    """The per-sample table of the held-out items, each under `draws` corruptions that are the same for every model.

    members: other models by the source of signals that they are asked for: "ensemble" (the model itself is one of it)
    or "unique-depth". further: the exits at which the signals are measured that take further loops. dropout_passes: of
    Monte-Carlo dropout, for a model that was trained with dropout. by_token: whether a hidden token is a unit. Raises
    ValueError for impossible exits and for tokens of a world without any.
    """
    exits = model.exits(exits)
    clean = model.dataset.heldout()
    check_clean(clean, model.spec, f"dataset {model.run.dataset!r}, held-out items")
    if by_token and model.spec.kind != "tokens":
        raise ValueError(f"per sample: {model.run.dataset!r} has no tokens to be units; take whole items")
    found = []
    for draw, batch in enumerate(model.task.heldout(clean, model.spec, stream(model.run.dataset, 0, "heldout"), draws)):
        items = len(batch.labels)
        size = -(-items // -(-items // BATCH))  # pieces alike, so that none is of one item
        for start in range(0, items, size):
            piece = batch.select(slice(start, start + size))
            whole, units, item, token = _units(model, piece, exits, start, by_token)
            errors = _errors(model, piece, whole, units)
            signals = measure(units)
            for source, models in (members or {}).items():
                signals |= _of_members(source, _asked(models, piece, exits), whole, units)
            if dropout_passes and model.run.architecture.dropout:
                given = (*piece[:2], piece.log_snr, piece.context)
                drawn = model.predict(*given, exits=exits, dropout_passes=dropout_passes)
                passes = [np.stack([model.task.clean(ExitOutput(one), piece) for one in at_exit]) for at_exit in drawn]
                signals |= _of_members("dropout", passes, whole, units)
            if further and not by_token:
                places = [exits.index(loops) for loops in further]
                for name, values in measure_further(model, piece, further).items():
                    signals[name] = np.full((len(exits), len(item)), np.nan)
                    signals[name][places] = values
            level = np.asarray(units.level, np.float64)
            found.append(PerSample(exits, item, np.full(len(item), draw), token, level, errors, signals))
    return _joined(found)


def _units(
    model: Model, piece: Batch, exits: tuple[int, ...], start: int, by_token: bool
) -> tuple[Trace, Trace, np.ndarray, np.ndarray]:
    """The trace of some items, that of its units, and the item and token (n,) of each; `start`: the first item."""
    whole = trace(model, piece, exits)
    if not by_token or whole.hidden is None:
        items = np.arange(start, start + len(piece.labels))
        return whole, whole, items, np.full(len(items), -1)
    item, token = np.nonzero(whole.hidden)
    distances = model.dataset.strata(model.dataset.heldout())  # of worlds that say what they hide
    level = np.asarray(whole.level)[item] if distances is None else distances[item + start, token]
    initial = None if whole.initial is None else whole.initial[:, None]
    units = Trace("tokens", level=level, initial=initial, numpy=whole.numpy)
    for loops, output in zip(whole.loops, whole.outputs, strict=True):
        units.append(loops, ExitOutput(*(None if field is None else field[:, None] for field in output)))
    return whole, units, item + start, token


def _errors(model: Model, piece: Batch, whole: Trace, units: Trace) -> Values:
    """Errors of every unit {name: (E, n)}."""
    outputs = [np.asarray(whole.numpy(output.prediction), np.float64) for output in whole.outputs]
    if whole.hidden is None:
        target = np.asarray(piece.target, np.float64).reshape(-1, 1)
        squares = [((values - target) ** 2).reshape(whole.items, -1).mean(axis=1) for values in outputs]
        return {"x0_error": np.stack(squares)}
    target = piece.target[whole.hidden]  # (M,)
    errors = {
        "negative_log_likelihood": [
            -log_softmax(logits, axis=-1)[np.arange(len(target)), target] for logits in outputs
        ],
        "error_rate": [(logits.argmax(axis=-1) != target).astype(np.float64) for logits in outputs],
    }
    exact = [exact_posterior(model, piece, loops) for loops in whole.loops]
    apart = [loss_apart(p[whole.hidden], logits) for p, logits in zip(exact, outputs, strict=True) if p is not None]
    if apart:
        errors["model_error"], errors["irreducible"] = zip(*apart, strict=True)
    return {name: units.over_items(np.stack(rows)) for name, rows in errors.items()}


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
    seen = np.array([reachable(d, shape.depth_at(loops), shape.attention_radius) for d in range(dataset.length + 1)])
    known = np.eye(dataset.colours)[batch.target]  # (B, T, V)
    return np.where(seen[distances][..., None], known, 1 / dataset.colours)


def loss_apart(exact: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """KL(p ‖ q), the model's error, and H(p), irreducible, of every token (…, T) in nats; p and logits (…, T, V).

    Their sum is the expected loss of the prediction q of a hidden token under the exact posterior p.
    """
    log_q = np.where(exact > 0, log_softmax(np.asarray(logits, np.float64), axis=-1), 0.0)  # 0·ln 0 = 0
    entropy = entr(exact).sum(axis=-1)
    return -(exact * log_q).sum(axis=-1) - entropy, entropy


def _asked(models: Sequence[Model], piece: Batch, loops: Sequence[int]) -> list[np.ndarray]:
    """What S models take for clean at each exit (S, B, …); one of a single exit gives that one at all of them."""
    per_model = []
    for model in models:
        exits = (1,) if model.trainer.depth == "unique" else tuple(loops)
        uploaded = model.engine.upload(piece)
        outputs = model.engine.predict(uploaded, exits)
        predictions = [model.engine.numpy(model.task.clean(output, uploaded)) for output in outputs]
        per_model.append(predictions * (len(loops) // len(predictions)))
    return [np.stack(predictions) for predictions in zip(*per_model, strict=True)]


def _of_members(source: str, predictions: Sequence[np.ndarray], whole: Trace, units: Trace) -> Values:
    """Signals of several predictions of one input, (S, B, …) at each exit, as {name: (E, n)}."""
    measured: dict[str, list[np.ndarray]] = {}
    for exit, members in enumerate(predictions):
        rows = members if whole.hidden is None else members[:, whole.hidden]  # (S, B, …) or (S, M, V)
        if source == "ensemble":  # the model itself is one of it
            own = whole.numpy(whole.outputs[exit].prediction).reshape(rows.shape[1:])
            rows = np.concatenate([rows, own[None]])
        if whole.hidden is None:
            of_exit = measure_members(source, rows)
        else:
            each = measure_members(source, rows[:, :, None], np.ones((rows.shape[1], 1), bool))
            of_exit = {name: units.over_items(values) for name, values in each.items()}
        for name, values in of_exit.items():
            measured.setdefault(name, []).append(values)
    return {name: np.stack(values) for name, values in measured.items()}


def _joined(found: Sequence[PerSample]) -> PerSample:
    """The units of all parts under one another."""
    first = found[0]
    joined: dict[str, Any] = {
        kept: {
            name: np.concatenate([getattr(part, kept)[name] for part in found], axis=1) for name in getattr(first, kept)
        }
        for kept in ("errors", "signals")
    }
    for name in ("item", "draw", "token", "level"):
        joined[name] = np.concatenate([getattr(part, name) for part in found])
    return replace(first, **joined)
