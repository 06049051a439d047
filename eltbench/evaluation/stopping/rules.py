"""When to stop looping: one rule for every criterion in use, as exits per item and as quality against compute.

A rule stops an item at the first exit at which its signal is at most a threshold, on as many exits in a row as the rule
wants hits, else at the deepest. The smallest threshold is the safest. Values are (E, B) at the exits of one pass, with
NaN where a signal is not defined yet, which never stops anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from eltbench.core.validation import unknown
from eltbench.evaluation.signals.uncertainty import SIGNALS

if TYPE_CHECKING:  # scikit-learn, which it needs, takes a second to load
    from eltbench.evaluation.signals.probe import Gate

OWN_SIGNALS = {"minus_loops", "not_ready", "excess_error"}


@dataclass(frozen=True)
class Rule:
    """A stopping rule: the signal it reads, how many hits in a row it wants, and the threshold of its source, if any.

    Besides the signals of `uncertainty.SIGNALS` there are "minus_loops" (fixed depth), "not_ready" (a learned gate's
    probability, `probe.Gate`) and "excess_error" (the oracle, which knows the errors). Raises ValueError for a signal
    that is unknown, or that reads later exits or other networks and so cannot stop anything.
    """

    signal: str
    hits: int = 1
    threshold: float | None = None
    source: str = ""

    def __post_init__(self) -> None:
        if self.signal not in SIGNALS and self.signal not in OWN_SIGNALS:
            raise ValueError(unknown("signal of a rule", self.signal, sorted(OWN_SIGNALS | SIGNALS.keys())))
        if self.signal in SIGNALS and not SIGNALS[self.signal].may_stop:
            raise ValueError(f"rule: signal {self.signal!r} reads more than the exits so far; no rule may stop by it")
        if self.hits < 1:
            raise ValueError(f"rule: hits must be at least 1, given {self.hits}")

    def reads(self, gate: Gate | None = None) -> list[str]:
        """The signals of `uncertainty.SIGNALS` that it reads; `gate` is that of the learned gate."""
        if gate is not None:
            return gate.names
        return [self.signal] if self.signal in SIGNALS else []

    def values(
        self, seen: Mapping[str, np.ndarray], loops: Sequence[int], items: int, gate: Gate | None = None
    ) -> np.ndarray:
        """Its signal (E, B) at exits after `loops`, from the measured signals {name: (E, B)}; not the oracle's."""
        if self.signal == "minus_loops":
            return minus_loops(loops, items)
        return seen[self.signal] if gate is None else gate(seen, loops)


HUGINN, BEND, ACT, TRM = "arXiv 2502.05171, code", "arXiv 2509.23314", "arXiv 1603.08983", "arXiv 2510.04871"
RULES: dict[str, Rule] = {
    "fixed": Rule("minus_loops"),
    "entropy": Rule("entropy", source="arXiv 1709.01686"),
    "entropy-difference": Rule("entropy_change", threshold=1e-3, source=HUGINN),
    "kl": Rule("kl_to_previous", threshold=1e-3, source=HUGINN),
    "min-p-kl": Rule("min_p_kl_to_previous", threshold=1e-5, source=HUGINN),
    "prediction-change": Rule("squared_change_to_previous"),
    "latent-difference": Rule("relative_update_norm", threshold=0.03, source=HUGINN),
    "cosine": Rule("state_turn", threshold=1e-3, source=HUGINN),
    "acceleration": Rule("relative_acceleration", hits=2, source=BEND),
    "argmax-stability": Rule("argmax_unsettled", threshold=-5, source=HUGINN),
    "halting": Rule("unhalted", threshold=0.0, source=ACT),  # where all tokens have halted
    "judged-right": Rule("minus_halting", threshold=0.0, source=TRM),
    "learned-gate": Rule("not_ready"),
    "oracle": Rule("excess_error", threshold=0.0),
}
"""The rules by name. Thresholds of sources were set on language models: here they are a place to begin."""


def get(name: str) -> Rule:
    """The rule of that name; raises ValueError with the near miss and the known names."""
    if name not in RULES:
        raise ValueError(unknown("stopping rule", name, list(RULES)))
    return RULES[name]


def minus_loops(loops: Sequence[int], items: int) -> np.ndarray:
    """The signal of the fixed rule (E, B): stop after k loops is the threshold -k."""
    return np.repeat(-np.asarray(loops, float)[:, None], items, axis=1)


def excess_error(errors: np.ndarray) -> np.ndarray:
    """The signal of the oracle (E, B): how much an exit's error (E, B) is above that of the deepest."""
    return errors - errors[-1]


def fired(values: np.ndarray, threshold: float, hits: int = 1) -> np.ndarray:
    """Where a rule is satisfied (E, B): the signal is at most the threshold here and at the `hits` - 1 exits before.

    While the loops run, values so far give in their last row who stops now.
    """
    hit = values <= threshold
    satisfied = hit.copy()
    for back in range(1, hits):
        satisfied[back:] &= hit[:-back]
        satisfied[:back] = False
    return satisfied


def stops(values: np.ndarray, threshold: float, hits: int = 1) -> np.ndarray:
    """The position of the exit at which each item stops (B,), the last one where the rule is never satisfied.

    Raises ValueError for fewer than two exits.
    """
    if len(values) < 2:
        raise ValueError(f"rule: stopping takes two exits or more, given {len(values)} (a trainer without loops?)")
    satisfied = fired(values, threshold, hits)
    satisfied[-1] = True
    return satisfied.argmax(axis=0)


def thresholds(values: np.ndarray, count: int = 50) -> np.ndarray:
    """At most `count` thresholds, ascending, from -∞ (never early) over quantiles of the values seen to their largest.

    To be taken from a split of its own where a guarantee is sought: its grid must not depend on calibration items.
    """
    seen = values[:-1][np.isfinite(values[:-1])]  # at the last exit everything stops anyhow
    if not seen.size:
        raise ValueError("rule: a signal without a finite value before the last exit cannot stop anything")
    quantiles = np.unique(np.quantile(seen, np.linspace(0, 1, max(1, count - 1)), method="lower"))
    return np.concatenate([[-np.inf], quantiles])


def batched(loops: np.ndarray, batch: int = 64) -> np.ndarray:
    """Loops (…, n) where a batch, taken in order, goes on until its last item stops."""
    items = np.arange(loops.shape[-1])
    return np.maximum.reduceat(loops, items[::batch], axis=-1)[..., items // batch]


def curve(
    values: np.ndarray,
    errors: np.ndarray,
    loops: Sequence[int],
    grid: Sequence[float],
    *,
    hits: int = 1,
    batch_size: int = 64,
) -> list[dict[str, Any]]:
    """Quality against compute: one row a threshold of the grid, from values and errors (E, B) at exits `loops` (E,).

    error, excess_error: means over the items where they stop, and the same above the deepest exit. loops_per_sample,
    loops_per_batch: the mean loops where stopped items leave the batch, and where it goes on until its last one stops.
    """
    if values.shape != errors.shape or len(values) != len(loops):
        raise ValueError(f"curve: values {values.shape} and errors {errors.shape} must be (exits, items) at {loops}")
    rows = []
    for threshold in grid:
        stop = stops(values, threshold, hits)
        run = np.asarray(loops)[stop]  # (B,)
        error = float(errors[stop, np.arange(errors.shape[1])].mean())
        rows.append(
            {
                "threshold": float(threshold),
                "error": error,
                "excess_error": error - float(errors[-1].mean()),
                "loops_per_sample": float(run.mean()),
                "loops_per_batch": float(batched(run, batch_size).mean()),
            }
        )
    return rows
