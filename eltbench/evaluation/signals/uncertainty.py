"""Which signals of uncertainty there are, what each costs and may be used for, and how all are measured at once.

From masked tokens to items a signal is the mean over the tokens (the largest value where `reduction` says "max"), taken
last. Every signal is oriented so that a larger value means less sure.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from eltbench.core.arrays import Array
from eltbench.core.validation import unknown
from eltbench.evaluation import trajectory
from eltbench.evaluation.signals import exit_signals as _exit
from eltbench.evaluation.signals import further_signals as _further
from eltbench.evaluation.signals.exit_trace import Trace

TOKENS, CONTINUOUS = ("tokens",), ("continuous",)
ANY = TOKENS + CONTINUOUS
IN_PASS = ("prediction", "state", "ponder", "unhalted", "halting", "level")
MEMBERS = ("dropout", "ensemble", "unique-depth")


@dataclass(frozen=True)
class Signal:
    """What is declared of a signal; its formula and its source are the docstring of its function.

    needs: what it reads: "prediction", "state", "ponder" or "unhalted" (universal depth), "halting" (recursive depth)
    or "level" of the pass itself; "recurrence" (further loops), or the predictions of other networks on the same input:
    "dropout", "ensemble", "unique-depth". kinds: the data for which it exists (`Task.data_kind`). looks_back: how many
    earlier exits it reads at least. other: which exit it is compared with, where its function takes one. may_stop:
    whether it reads no later exit and no other network, so that a stopping rule may use it. extra_loops, extra_passes:
    its cost beyond the pass for each item, a pass being the loops of the exit in question once, or the other network
    once; for each perturbation or member where there are several. baseline: whether signals of exits have to beat it.
    reduction: how the values of an item's masked tokens become one.
    """

    compute: Callable[..., Array]
    needs: str
    kinds: tuple[str, ...] = ANY
    looks_back: int = 0
    other: Literal["previous", "deepest"] | None = None
    may_stop: bool = True
    extra_loops: int = 0
    extra_passes: int = 0
    baseline: bool = False
    reduction: Literal["mean", "max"] = "mean"

    def at(self, trace: Trace, exit: int) -> Array:
        """Its values (M,) at an exit of a trace, by position."""
        others = {None: (), "previous": (exit - 1,), "deepest": (len(trace) - 1,)}
        return self.compute(trace, exit, *others[self.other])

    @property
    def formula(self) -> str:
        """Formula and source."""
        return inspect.getdoc(self.compute) or ""

    @property
    def one_pass(self) -> bool:
        """Whether the exits of the pass itself are enough."""
        return self.needs in IN_PASS

    def first_exit(self, trace: Trace) -> int:
        """The position of the first exit at which it is defined."""
        return max(0, self.looks_back - (self.needs == "state" and trace.initial is not None))

    def available(self, trace: Trace) -> bool:
        """Whether it can be read from this trace."""
        if trace.kind not in self.kinds or not self.one_pass or not len(trace):
            return False
        return (trace.level if self.needs == "level" else getattr(trace.outputs[0], self.needs)) is not None


PREVIOUS: dict[str, Any] = {"looks_back": 1, "other": "previous"}
DEEPEST: dict[str, Any] = {"may_stop": False, "other": "deepest"}
FURTHER: dict[str, Any] = {"may_stop": False, "extra_passes": 1, "baseline": True}

SIGNALS: dict[str, Signal] = {
    "max_softmax": Signal(_exit.max_softmax, "prediction", TOKENS, baseline=True),
    "entropy": Signal(Trace.entropy, "prediction", TOKENS, baseline=True),
    "variance_bound": Signal(_exit.variance_bound, "prediction", CONTINUOUS, baseline=True),
    "corruption_level": Signal(_exit.corruption_level, "level", baseline=True),
    "ponder": Signal(_exit.ponder, "ponder"),
    "unhalted": Signal(_exit.unhalted, "unhalted"),
    "minus_halting": Signal(_exit.halting, "halting", TOKENS),
    "kl_to_previous": Signal(_exit.kl, "prediction", TOKENS, **PREVIOUS),
    "kl_to_deepest": Signal(_exit.kl, "prediction", TOKENS, **DEEPEST),
    "jensen_shannon_to_previous": Signal(_exit.jensen_shannon, "prediction", TOKENS, **PREVIOUS),
    "jensen_shannon_to_deepest": Signal(_exit.jensen_shannon, "prediction", TOKENS, **DEEPEST),
    "min_p_kl_to_previous": Signal(_exit.min_p_kl_to_previous, "prediction", TOKENS, looks_back=1),
    "entropy_change": Signal(_exit.entropy_change, "prediction", TOKENS, looks_back=1),
    "argmax_changed": Signal(Trace.changed, "prediction", TOKENS, looks_back=1),
    "argmax_flips": Signal(Trace.flips, "prediction", TOKENS, looks_back=1),
    "argmax_unsettled": Signal(Trace.unsettled, "prediction", TOKENS, looks_back=1, reduction="max"),
    "variance_over_exits": Signal(_exit.variance_over_exits, "prediction", looks_back=1),
    "squared_change_to_previous": Signal(_exit.squared_change, "prediction", CONTINUOUS, **PREVIOUS),
    "squared_change_to_deepest": Signal(_exit.squared_change, "prediction", CONTINUOUS, **DEEPEST),
    "relative_update_norm": Signal(_exit.relative_update_norm, "state", looks_back=1),
    "state_turn": Signal(_exit.state_turn, "state", looks_back=1),
    "update_turn": Signal(_exit.update_turn, "state", looks_back=2),
    "relative_acceleration": Signal(_exit.relative_acceleration, "state", looks_back=2),
    "residual": Signal(_further.residual, "recurrence", may_stop=False, extra_loops=1),
    "path_dependence": Signal(_further.path_dependence, "recurrence", looks_back=1, may_stop=False, extra_passes=1),
    "perturbation_growth": Signal(trajectory.recovery, "recurrence", may_stop=False, extra_loops=8),
    "dropout_entropy": Signal(_further.entropy_of_mean, "dropout", TOKENS, **FURTHER),
    "dropout_information": Signal(_further.mutual_information, "dropout", TOKENS, **FURTHER),
    "dropout_variance": Signal(_further.variance, "dropout", CONTINUOUS, **FURTHER),
    "ensemble_entropy": Signal(_further.entropy_of_mean, "ensemble", TOKENS, **FURTHER),
    "ensemble_information": Signal(_further.mutual_information, "ensemble", TOKENS, **FURTHER),
    "ensemble_variance": Signal(_further.variance, "ensemble", CONTINUOUS, **FURTHER),
    "unique_depth_entropy": Signal(_further.entropy_of_mean, "unique-depth", TOKENS, **FURTHER),
}
"""All signals by name."""


def get(name: str) -> Signal:
    """The signal of that name; raises ValueError with the near miss and the known names."""
    if name not in SIGNALS:
        raise ValueError(unknown("signal", name, list(SIGNALS)))
    return SIGNALS[name]


def measure(trace: Trace, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Signals at every exit, {name: (E, B)} float64 on the host; NaN at exits before a signal's first.

    names: by default every signal that can be read from this trace. Raises ValueError for names that are unknown or
    cannot be read from it.
    """
    chosen = [name for name in SIGNALS if get(name).available(trace)] if names is None else list(names)
    for name in chosen:
        if not get(name).available(trace):
            raise ValueError(
                f"signal {name!r} needs the {get(name).needs} of {' or '.join(get(name).kinds)} data; "
                f"this trace of {trace.kind} data does not hold it"
            )
    return _measured(trace, chosen, range(len(trace)))


def measure_latest(trace: Trace, names: Collection[str]) -> dict[str, np.ndarray]:
    """Signals at the last exit of a trace that goes on, {name: (B,)} as `measure` gives them there.

    names: of signals that can be read from it and may stop.
    """
    return {name: values for name, (values,) in _measured(trace, names, [len(trace) - 1]).items()}


def measure_members(source: str, predictions: np.ndarray, hidden: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """The signals of `source` ("dropout", "ensemble" or "unique-depth") at one exit, {name: (B,)} float64.

    predictions: of S members on the same inputs, logits (S, B, T, V) with hidden (B, T), the masked tokens; or x_0
    (S, B, H, W, C) without. Raises ValueError for another source and for a mask of another shape.
    """
    if source not in MEMBERS:
        raise ValueError(unknown("source of members", source, list(MEMBERS)))
    if hidden is not None and hidden.shape != predictions.shape[1:3]:
        raise ValueError(f"members: hidden must be {predictions.shape[1:3]} (items, tokens), given {hidden.shape}")
    kind, where = ("continuous", True) if hidden is None else ("tokens", hidden)
    measured = {}
    for name, one in SIGNALS.items():
        if one.needs == source and kind in one.kinds:
            values = one.compute(predictions)
            measured[name] = values.reshape(len(values), -1).mean(axis=1, where=where)
    return measured


def nonfinite(measured: Mapping[str, np.ndarray]) -> list[str]:
    """What is not finite among measured signals {name: (E, B)}, one sentence a signal, naming its first item and exit.

    A signal of changes is not defined before as many exits as it looks back, and its NaN there is none to report.
    """
    found = []
    for name, values in measured.items():
        bad = ~np.isfinite(values)
        early = bad[: SIGNALS[name].looks_back if name in SIGNALS else 0]
        early[early.all(axis=1)] = False
        if bad.any():
            exit, item = np.argwhere(bad)[0]
            found.append(
                f"signal {name!r} is {values[exit, item]} at item {item}, exit {exit} (by position); "
                f"{bad.any(axis=0).sum()} of {values.shape[1]} items are not finite somewhere"
            )
    return found


def _measured(trace: Trace, names: Collection[str], exits: Sequence[int]) -> dict[str, np.ndarray]:
    """Signals at these exits, the last ones of a trace, as one value per item (E, B), with NaN before a signal's first.

    What has as many rows comes to the host together: one transfer and one sum cost less than one a signal.
    """
    measured = {name: np.full((len(exits), trace.items), np.nan) for name in names}
    found: dict[str, list[Array]] = {name: [] for name in names}
    together: dict[tuple[Any, ...], list[str]] = {}
    with np.errstate(all="ignore"):  # what is not finite is reported by `nonfinite`, item by item
        for exit in exits:  # in the order in which the trace keeps what several signals need
            for name in names:
                if exit >= SIGNALS[name].first_exit(trace):
                    found[name].append(SIGNALS[name].at(trace, exit))
        for name, rows in found.items():
            if SIGNALS[name].needs == "level":
                measured[name][:] = trace.level
            elif rows:
                together.setdefault((len(rows[0]), rows[0].dtype, SIGNALS[name].reduction), []).append(name)
        for (_, _, reduction), alike in together.items():
            rows = [row for name in alike for row in found[name]]
            items = trace.over_items(trace.numpy(trace.xp.stack(rows)), worst=reduction == "max")  # (signals · E, B)
            for name, values in zip(
                alike, np.split(items, np.cumsum([len(found[name]) for name in alike])[:-1]), strict=True
            ):
                measured[name][len(exits) - len(values) :] = values
    return measured
