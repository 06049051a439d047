"""Predictions that can be had at any time: loop after loop until a deadline, a stopping rule or L_max ends them.

Stopped items are dropped from the batch. Nothing here knows of a backend.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np

from eltbench.backends.steps import Steps
from eltbench.core.arrays import Array
from eltbench.evaluation.signals import uncertainty
from eltbench.evaluation.signals.exit_trace import Trace, estimated, observed_fields
from eltbench.evaluation.signals.uncertainty import SIGNALS
from eltbench.evaluation.stopping import rules
from eltbench.evaluation.stopping.rules import Rule
from eltbench.tasks.base import Batch, ExitOutput
from eltbench.training.model import Model

if TYPE_CHECKING:
    from eltbench.evaluation.signals.probe import Gate

Clock = Callable[[], float]
"""Seconds from some moment on, never falling."""
End = Literal["rule", "deadline", "loops"]


@dataclass(frozen=True)
class Current:
    """What is known of B items after a loop: of those that still ran as of this exit, of others as of their own."""

    loops: int  # run so far
    prediction: (
        np.ndarray
    )  # (B, H, W, C) or logits (B, T, vocabulary), as `Model.predict` gives them at each item's exit
    exits: np.ndarray  # (B,), the loops after which each was read
    signals: dict[str, np.ndarray]  # {name: (B,)} there, NaN where a signal is not defined yet
    running: np.ndarray  # (B,), the items that go on
    elapsed_ms: float  # since the call
    nonfinite: tuple[str, ...]  # a sentence, with the item, for every signal that is defined here and not finite
    ended_by: End | None  # what ended the last items; None while some go on


@dataclass(frozen=True)
class Plan:
    """Where exits are read, what of them, and what stops an item; made by `planned`."""

    exits: tuple[int, ...]
    signals: tuple[str, ...]
    seconds: float  # until the deadline
    rule: Rule | None
    threshold: float
    gate: Gate | None

    @property
    def fields(self) -> tuple[str, ...]:
        """What is read of every exit."""
        needs = {SIGNALS[name].needs for name in self.signals}
        return ("prediction", *(field for field in ExitOutput._fields[1:] if field in needs))

    def stop(self, seen: dict[str, np.ndarray], read: int, items: int) -> np.ndarray:
        """Which of the items (R,) stop at the latest of `read` exits, by what the rule read so far {name: (E, R)}."""
        if self.rule is None:
            return np.zeros(items, bool)
        values = self.rule.values(seen, self.exits[:read], items, self.gate)
        return rules.fired(values, self.threshold, self.rule.hits)[-1]


def anytime(
    model: Model,
    inputs: np.ndarray,
    labels: np.ndarray | None = None,
    log_snr: np.ndarray | float | None = None,
    context: np.ndarray | None = None,
    *,
    deadline_ms: float | None = None,
    rule: str | Rule | None = None,
    threshold: float | None = None,
    gate: Gate | None = None,
    exits: Sequence[int] | None = None,
    signals: Collection[str] | None = None,
    clock: Clock = time.perf_counter,
) -> Iterator[Current]:
    """The current prediction with its signals after every loop, until the deadline, the rule or L_max ends it.

    inputs, labels, log_snr, context: as for `Model.predict`. deadline_ms: since the call, the caller's own time
    included; no loop begins that would end after it if it took as long as the one before, but the first runs in any
    case. rule: of `evaluation.stopping.rules`, by name or as it is; an item that it stops leaves the batch, and its
    later loops are not computed. threshold: of the rule, in place of that of its source. gate: of the rule
    "learned-gate". exits: where predictions are read, by default every loop from L_min to L_max; previous means the
    previous of these. signals: of `evaluation.signals.uncertainty`, by default all that can be read while the loops
    run. clock: in seconds. At equilibrium depth exits are iterations of the solver. Raises ValueError for what cannot
    be done, before the first loop; rules need exits to stop at, which unique depth has not.
    """
    began, batch = clock(), model.batch(inputs, labels, log_snr, context)
    items = len(batch.labels)
    if not items:
        raise ValueError("anytime: give one item or more, given none")
    plan = planned(model, deadline_ms, rule, threshold, gate, exits, signals)
    hidden = batch.inputs == model.spec.vocabulary if model.spec.kind == "tokens" else None
    batch = batch._replace(weight=None if hidden is None else hidden.astype(np.float32))
    uploaded = model.engine.upload(batch)
    steps = model.engine.steps(uploaded)
    trace = None
    if plan.signals:
        level, known = np.asarray(model.task.noisiness(batch)), plan.exits[0] == 1 and model.trainer.depth != "unique"
        initial = _near(model, steps.initial) if known and "state" in plan.fields else None
        trace = Trace(model.spec.kind, hidden=hidden, level=level, initial=initial, numpy=partial(_numpy, model))
    near = batch if model.engine.run.device == "cpu" else uploaded  # as `_near` has the outputs
    return _run(model, plan, steps, trace, near, lambda: clock() - began)


def _run(
    model: Model, plan: Plan, steps: Steps, trace: Trace | None, batch: Batch, elapsed: Clock
) -> Iterator[Current]:
    items = len(batch.labels)
    running, read = np.arange(items), np.zeros(items, np.int64)
    prediction: np.ndarray | None = None
    read_by_rule = [] if plan.rule is None else plan.rule.reads(plan.gate)
    signals = {name: np.empty((0, items)) for name in read_by_rule}  # of all exits so far
    at_exit = {name: np.full(items, np.nan) for name in plan.signals}
    for place, (before, exit) in enumerate(pairwise((0, *plan.exits))):
        started = elapsed()
        for _ in range(before + 1, exit):
            steps.advance(())
        output = steps.advance(plan.fields)
        found = _numpy(model, output.prediction)
        prediction = np.empty((items, *found.shape[1:]), found.dtype) if prediction is None else prediction.copy()
        prediction[running], read[running] = found, exit
        problems: tuple[str, ...] = ()
        if trace is not None:
            near = ExitOutput(*(None if field is None else _near(model, field) for field in output))
            trace.append(exit, estimated(model.task, near, batch))
            values = uncertainty.measure_latest(trace, plan.signals)
            problems = tuple(_nonfinite(values, trace, running, exit))
            for name, value in values.items():
                at_exit[name][running] = value
            signals = {name: np.vstack([rows, at_exit[name]]) for name, rows in signals.items()}
        stopped = plan.stop({name: rows[:, running] for name, rows in signals.items()}, place + 1, len(running))
        now = elapsed()
        ahead = 0.0
        ended_by: End | None = "rule" if stopped.all() else None
        if exit == plan.exits[-1]:
            ended_by = ended_by or "loops"
        else:  # the next exit is expected to take as long a loop as this one did
            ahead = (now - started) / (exit - before) * (plan.exits[place + 1] - exit)
            if ended_by is None and now + ahead > plan.seconds:
                ended_by = "deadline"
        going = np.zeros(items, bool)
        going[running[~stopped]] = ended_by is None
        copies = {name: values.copy() for name, values in at_exit.items()}
        yield Current(exit, prediction, read.copy(), copies, going, 1000 * now, problems, ended_by)
        if ended_by is not None or elapsed() + ahead > plan.seconds:
            return
        if stopped.any():
            steps.keep(kept := np.flatnonzero(~stopped))
            batch = batch.select(kept)
            trace = None if trace is None else trace.select(~stopped)
            running = running[~stopped]


def _near(model: Model, array: Array) -> Array:
    """An array where signals are computed: on a processor in NumPy, whose small products cost half of torch's."""
    return _numpy(model, array) if model.engine.run.device == "cpu" else array


def _numpy(model: Model, array: Array) -> np.ndarray:
    return array if isinstance(array, np.ndarray) else model.engine.numpy(array)


def planned(
    model: Model,
    deadline_ms: float | None,
    rule: str | Rule | None,
    threshold: float | None,
    gate: Gate | None,
    exits: Sequence[int] | None,
    signals: Collection[str] | None,
) -> Plan:
    """What is asked of a model, checked against it (ValueError)."""
    architecture, looped = model.run.architecture, model.trainer.depth != "unique"
    if exits is None:
        exits = range(architecture.min_loops, architecture.max_loops + 1) if looped else (1,)
    exits = model.exits(exits)
    if deadline_ms is not None and not deadline_ms > 0:
        raise ValueError(f"anytime: deadline_ms must be above 0, given {deadline_ms}")
    rule = rules.get(rule) if isinstance(rule, str) else rule
    if rule is None and (threshold is not None or gate is not None):
        raise ValueError("anytime: a threshold and a gate belong to a rule; name the rule, or leave them out")
    here = (*observed_fields(model.trainer.depth), "level")
    told = {name: one for name, one in SIGNALS.items() if one.may_stop and one.needs in here}
    readable = [name for name, one in told.items() if model.spec.kind in one.kinds]
    chosen = list(readable if signals is None else signals)
    if rule is not None:
        if not looped:
            raise ValueError(f"anytime: trainer {model.run.trainer!r} has no exits to stop at; give no rule")
        if len(exits) < 2:
            raise ValueError(f"anytime: a rule takes two exits or more, given {list(exits)}")
        if (gate is not None) != (rule.signal == "not_ready"):
            raise ValueError(f"anytime: a gate belongs to the rule 'learned-gate' alone, given {gate} with {rule}")
        if rule.signal == "excess_error":
            raise ValueError("anytime: the oracle knows the errors, which a pass that runs does not; give another rule")
        chosen += rule.reads(gate)
        threshold = rule.threshold if threshold is None else threshold
        if threshold is None or math.isnan(threshold):
            raise ValueError(
                f"anytime: the rule of {rule.signal!r} needs a threshold, given {threshold}; take one from "
                "`rules.thresholds` that calibration items have accepted (`evaluation.guarantees`)"
            )
    for name in chosen:
        if uncertainty.get(name) and name not in readable:
            raise ValueError(
                f"anytime: signal {name!r} cannot be read from the exits so far of trainer {model.run.trainer!r} on "
                f"{model.spec.kind} data; known there: {', '.join(readable)}"
            )
    seconds = math.inf if deadline_ms is None else deadline_ms / 1000
    return Plan(exits, tuple(dict.fromkeys(chosen)), seconds, rule, math.nan if threshold is None else threshold, gate)


def _nonfinite(values: dict[str, np.ndarray], trace: Trace, running: np.ndarray, exit: int) -> Iterator[str]:
    for name, value in values.items():
        if len(trace) > SIGNALS[name].first_exit(trace) and not (finite := np.isfinite(value)).all():
            bad = np.flatnonzero(~finite)
            more = f", and at {len(bad) - 1} more items" if len(bad) > 1 else ""
            yield f"signal {name!r} is {value[bad[0]]} at item {running[bad[0]]} after {exit} loops{more}"
