"""Whether signals summed over sampling tell bad samples, what choosing by them gains, what stopping inside costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eltbench.evaluation import guarantees, selective, stopping
from eltbench.evaluation.generation import Generated, best_of, distance, generate, sample_errors
from eltbench.model import Model

Rows = list[dict[str, Any]]

KEPT = 0.25  # the share of the samples of each label that is chosen
STOPPED = ("fixed", "kl", "prediction-change", "latent-difference")  # rules that are tried inside sampling
POINTS = 4  # thresholds of each, from never early on
BOUND = 1.0  # of the distance to the full-loop sample, beyond which it counts as that


def score(model: Model, settings: Mapping[str, Any], splits: int, rng: np.random.Generator) -> Rows:
    """Rows of one model's samples; none where nobody can judge a sample.

    settings: `samples` (how many, with the labels of as many held-out items), `sampling`, `exits` up to L_max, `levels`
    and `delta`. metric: `auroc` and `spearman` with a sample's error, whose event is an error above its upper quartile
    over all samples; `selection_gain`, by how much the mean error falls where the quarter of each label's samples with
    the lowest signal is kept, and the same by the error itself (signal `oracle`); `distance_to_full_loops` of rules by
    setting; `risk`, `violations`, `loops_saved` of learn-then-test on whole trajectories run under the rule, at those
    levels for which there are enough samples.
    """
    sampling = model.task.sampling(**settings["sampling"])
    known = {
        "split": "heldout",
        "sampler": sampling.sampler,
        "sampling_steps": sampling.steps,
        "loops": settings["exits"][-1],
    }
    known |= {"guidance_scale": sampling.guidance_scale, "n_samples": settings["samples"]}
    labels = _labels(model, settings["samples"])
    asked = {"seed": model.run.seed, "sampling": settings["sampling"]}
    full = generate(model, labels, settings["exits"], **asked)
    errors = sample_errors(model, full.samples, labels)
    rows = [row for target, error in errors.items() for row in _foretold(full, error, labels, target)]
    if errors and len(settings["exits"]) > 1:
        trials = _stopped(model, full, labels, settings["exits"], asked)
        rows += [row for rule, runs in trials.items() for row in _curve(rule, runs, full)]
        for rule, runs in trials.items():
            rows += _guaranteed(rule, runs, full, settings["levels"], settings["delta"], splits, rng)
    return [{**known, "scope": "sampling", **row} for row in rows]


def _labels(model: Model, count: int) -> np.ndarray:
    labels = model.dataset.heldout().labels
    if count > len(labels):
        raise ValueError(f"measurement: samples is at most the {len(labels)} held-out items, given {count}")
    return labels[:count]


def _foretold(full: Generated, error: np.ndarray, labels: np.ndarray, target: str) -> Rows:
    """How well each signal, summed over the trajectory, tells the error of a sample."""
    bad = error > np.quantile(error, 0.75) if len(np.unique(error)) > 2 else error > error.min()
    signals = {name: total for name, total in full.summed().items() if np.ptp(total) > 0}  # else there is no choice
    rows: Rows = []
    for name, total in {**signals, "oracle": error}.items():
        gain = float(error.mean() - error[best_of(total, labels, KEPT)].mean())
        found = {"selection_gain": gain}
        if name != "oracle":
            found |= {"auroc": selective.auroc(total, bad), "spearman": selective.spearman(total, error)}
        rows += [
            {"metric": metric, "value": value, "signal": name, "target": target, "higher_is_better": True}
            for metric, value in found.items()
        ]
    return rows


def _stopped(
    model: Model, full: Generated, labels: np.ndarray, exits: Sequence[int], asked: Mapping[str, Any]
) -> dict[str, list[tuple[float, Generated]]]:
    """Every rule that can be told here with its samples at each threshold, from never early on.

    Thresholds are quantiles of what the full-loop trajectories saw of the first half of the samples.
    """
    trials = {}
    for rule in STOPPED:
        signal = stopping.get(rule).signal
        if signal == "minus_loops":
            values = stopping.minus_loops(exits, 1)
        elif signal in full.signals:
            values = full.signals[signal][:, :, : len(labels) // 2]
            values = np.moveaxis(values, 1, 0).reshape(len(exits), -1)
        else:
            continue
        limits = stopping.thresholds(values, POINTS)[1:].tolist()
        runs = [(limit, generate(model, labels, exits, rule=rule, threshold=limit, **asked)) for limit in limits]
        trials[rule] = [(-np.inf, full), *runs]
    return trials


def _curve(rule: str, runs: Sequence[tuple[float, Generated]], full: Generated) -> Rows:
    return [
        {
            "metric": "distance_to_full_loops",
            "value": float(distance(run.samples, full.samples).mean()),
            "higher_is_better": False,
            "rule": rule,
            "setting": setting,
            "threshold": limit if setting else None,
            "loops_per_sample": float(run.loops.mean()),
            "loops_per_batch": float(_whole(run.loops).mean()),
        }
        for setting, (limit, run) in enumerate(runs)
    ]


def _guaranteed(
    rule: str,
    runs: Sequence[tuple[float, Generated]],
    full: Generated,
    levels: Sequence[float],
    delta: float,
    splits: int,
    rng: np.random.Generator,
) -> Rows:
    """Learn-then-test of the distance to the full-loop sample, calibrated on trajectories that ran under the rule.

    Items of the first half chose the thresholds; the others are calibrated on and tested, in random halves.
    """
    rest = np.arange(len(full.samples) // 2, len(full.samples))
    loss = np.stack([np.minimum(distance(run.samples, full.samples)[rest], BOUND) for _, run in runs])  # (K, n)
    ran = np.stack([run.loops[:, rest].mean(axis=0) for _, run in runs])
    deepest = float(full.loops.max())
    drawn = [np.array_split(rng.permutation(len(rest)), 2) for _ in range(splits)]
    rows: Rows = []
    for alpha in levels:
        if min(len(calibrate) for calibrate, _ in drawn) < guarantees.smallest_learn_then_test(alpha, delta, BOUND):
            continue
        found = []
        for calibrate, test in drawn:
            index = guarantees.learn_then_test(loss[:, calibrate], alpha, delta, BOUND).index or 0
            found.append((loss[index, test].mean(), ran[index, test].mean()))
        risk, loops = np.array(found).T
        measured = {"risk": risk.mean(), "violations": (risk > alpha).mean(), "loops_saved": 1 - loops.mean() / deepest}
        rows += [
            {"metric": metric, "value": float(value), "higher_is_better": metric == "loops_saved", "rule": rule}
            | {"guarantee": "learn then test", "alpha": alpha, "delta": delta, "target": "distance_to_full_loops"}
            for metric, value in measured.items()
        ]
    return rows


def _whole(loops: np.ndarray, batch: int = 64) -> np.ndarray:
    """Loops (steps, n) where a batch, taken in order, goes on until its last item stops."""
    return np.concatenate(
        [
            np.broadcast_to(
                loops[:, start : start + batch].max(axis=1, keepdims=True), loops[:, start : start + batch].shape
            )
            for start in range(0, loops.shape[1], batch)
        ],
        axis=1,
    )
