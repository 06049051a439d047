"""Stopping inside sampling: what every rule runs at each step, how far that leads from all loops, and a guarantee.

Thresholds, and the learned gate, come from what full-loop trajectories saw of the first half of the samples; guarantees
are calibrated and tested on the others, in random halves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eltbench.evaluation.signals.probe import Gate, fit_gate
from eltbench.evaluation.stopping import guarantees
from eltbench.evaluation.stopping import rules as stopping
from eltbench.evaluation.stopping.early_exits import LEARN_THEN_TEST, Rows, Saved, Splits, guarantee_rows
from eltbench.evaluation.stopping.generation import Generated, distance, generate, sample_errors
from eltbench.evidence.intervals import NonFiniteError
from eltbench.training.model import Model

Run = tuple[float, Generated]
"""A threshold and the samples that were drawn under it."""

QUANTILES = (1 / 3, 2 / 3, 1.0)  # of a signal's values, which are its thresholds; besides, it may never stop early
BOUND = 1.0  # of the distance to the full-loop sample, beyond which it counts as that
DIVERGENCES = ("kl_to_deepest", "squared_change_to_deepest")  # which the gate learns to foresee
DISTANCE, DISTANCE_AT_STEP = "distance_to_full_loops", "distance_to_full_loops_at_step"


def score(
    model: Model,
    full: Generated,
    errors: Mapping[str, np.ndarray],
    labels: np.ndarray,
    exits: Sequence[int],
    asked: Mapping[str, Any],
    levels: Sequence[float],
    delta: float,
    splits: int,
    rng: np.random.Generator,
) -> Rows:
    """Rows of all rules that can be told while sampling, held against the full-loop samples under the same noise.

    errors: of the full-loop samples, {target: (n,)}. asked: the seed and sampler's options of `generate`. metric:
    `distance_to_full_loops` by setting, and `sample_error` by what the outside judges look at;
    `distance_to_full_loops_at_step` of the states after each `sampling_step`, with the loops run there and the `noise`
    that the step began with; those of `guarantee_rows` for learn-then-test of the distance to the full-loop sample,
    calibrated on trajectories that ran under the rule. A rule or a level that cannot be tried has a row that says why.
    """
    rows: Rows = []
    fixed: Saved = {}
    half = len(labels) // 2
    drawn: Splits = [np.array_split(rng.permutation(np.arange(half, len(labels))), 2) for _ in range(splits)]
    seen = {name: _flat(values[:, :, :half]) for name, values in full.signals.items()}
    gate = _gate(seen, exits)
    seen |= {"minus_loops": stopping.minus_loops(exits, 1)} | ({} if gate is None else {"not_ready": gate(seen, exits)})
    for name, rule in stopping.RULES.items():
        if rule.signal not in seen:
            continue
        early = seen[rule.signal][:-1]  # at the last exit everything stops anyhow
        if np.isfinite(early).any(axis=1).sum() < rule.hits:
            reason = "it is not defined at as many exits before the last as it wants hits"
            rows.append({"metric": DISTANCE, "value": None, "rule": name, "reason": reason})
            continue
        early = early[np.isfinite(early)]
        limits = np.unique(early if name == "fixed" else np.quantile(early, QUANTILES, method="lower")).tolist()
        own = gate if name == "learned-gate" else None
        try:
            further = [generate(model, labels, exits, rule=name, threshold=at, gate=own, **asked) for at in limits]
        except NonFiniteError as error:  # of what the gate reads; other rules do not stop by what is no number
            rows.append({"metric": DISTANCE, "value": None, "rule": name, "reason": str(error)})
            continue
        runs: list[Run] = [(-np.inf, full), *zip(limits, further, strict=True)]
        rows += _curve(name, runs, [errors, *_judged(model, further, labels)])
        rows += _guaranteed(name, runs, levels, delta, drawn, fixed)
    return rows


def _judged(model: Model, runs: Sequence[Generated], labels: np.ndarray) -> list[dict[str, np.ndarray]]:
    """The errors of the samples of each run, {target: (n,)}, judged together."""
    together = sample_errors(model, np.concatenate([run.samples for run in runs]), np.tile(labels, len(runs)))
    apart = {target: np.split(error, len(runs)) for target, error in together.items()}
    return [{target: parts[place] for target, parts in apart.items()} for place in range(len(runs))]


def _gate(seen: Mapping[str, np.ndarray], exits: Sequence[int]) -> Gate | None:
    """A gate that foresees whether an exit's prediction is farther from the deepest one's than half of all are."""
    away = next(seen[name] for name in DIVERGENCES if name in seen)
    return fit_gate(seen, away, exits, float(np.median(away[:-1]))) if np.isfinite(away).all() else None


def _flat(values: np.ndarray) -> np.ndarray:
    """Values (steps, E, n) as those of all steps beside each other (E, steps · n)."""
    return np.moveaxis(values, 1, 0).reshape(values.shape[1], -1)


def _curve(rule: str, runs: Sequence[Run], judged: Sequence[Mapping[str, np.ndarray]]) -> Rows:
    """What each setting ran and how far from the samples of all loops it ended; the first setting never stops early."""
    rows: Rows = []
    full = runs[0][1]
    for setting, (limit, run) in enumerate(runs):
        known = {"rule": rule, "setting": setting, "threshold": limit if setting else None, "higher_is_better": False}
        whole = stopping.batched(run.loops)
        ran = {"loops_per_sample": float(run.loops.mean()), "loops_per_batch": float(whole.mean())}
        rows.append({**known, **ran, "metric": DISTANCE, "value": float(distance(run.samples, full.samples).mean())})
        rows += [
            {**known, **ran, "metric": "sample_error", "value": float(error.mean()), "target": target}
            for target, error in judged[setting].items()
        ]
        for step, (state, aim) in enumerate(zip(run.path, full.path, strict=True)):
            ran = {"loops_per_sample": float(run.loops[step].mean()), "loops_per_batch": float(whole[step].mean())}
            at = {"sampling_step": step + 1, "noise": float(run.noise[step])}
            rows.append({**known, **ran, **at, "metric": DISTANCE_AT_STEP, "value": float(distance(state, aim).mean())})
    return rows


def _guaranteed(
    rule: str, runs: Sequence[Run], levels: Sequence[float], delta: float, drawn: Splits, fixed: Saved
) -> Rows:
    full = runs[0][1]
    loss = np.stack([np.minimum(distance(run.samples, full.samples), BOUND) for _, run in runs])  # (K, n)
    ran = np.stack([run.loops for _, run in runs])  # (K, steps, n)
    rows: Rows = []
    for alpha in levels:
        known = {"rule": rule, "guarantee": LEARN_THEN_TEST, "alpha": alpha, "delta": delta, "target": DISTANCE}
        fewest = guarantees.smallest_learn_then_test(alpha, delta, BOUND)
        if (left := min(len(calibrate) for calibrate, _ in drawn)) < fewest:
            reason = f"{left} samples calibrate; it takes {fewest}"
            rows.append({**known, "metric": "loops_saved", "value": None, "higher_is_better": True, "reason": reason})
        else:
            rows += guarantee_rows(known, loss, ran, drawn, int(full.loops.max()), fixed)
    return rows
