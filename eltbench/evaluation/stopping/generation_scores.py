"""Whether signals summed over sampling tell bad samples, what choosing by them gains, what stopping inside costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from eltbench.evaluation.signals import selective
from eltbench.evaluation.stopping import sampling_stops
from eltbench.evaluation.stopping.generation import Generated, best_of, generate, sample_errors
from eltbench.training.model import Model

Rows = list[dict[str, Any]]

ALIKE, NONE_WORSE = "the same of all samples", "no sample is worse than another"  # why a value is missing
KEPT = 0.25  # the share of the samples of each label that is chosen


def score(model: Model, settings: Mapping[str, Any], splits: int, rng: np.random.Generator) -> Rows:
    """Rows of one model's samples; none where nobody can judge a sample.

    settings: `samples` (how many, with the labels of as many held-out items), `sampling`, `exits` up to L_max, `levels`
    and `delta`. metric: `auroc` and `spearman` with a sample's error, whose event is an error above its upper quartile
    over all samples; `selection_gain`, by how much the mean error falls where the quarter of each label's samples with
    the lowest signal is kept, and the same by the error itself (signal `oracle`); and those of `sampling_stops`.
    reason: why a value is missing.
    """
    sampling = model.task.sampling(**settings["sampling"])
    heldout, count = model.dataset.heldout().labels, settings["samples"]
    if count > len(heldout):
        raise ValueError(f"measurement: samples is at most the {len(heldout)} held-out items, given {count}")
    labels = heldout[:count]
    known = {"split": "heldout", "scope": "sampling", "loops": settings["exits"][-1], "n_samples": count}
    known |= {"sampler": sampling.sampler, "sampling_steps": sampling.steps, "guidance_scale": sampling.guidance_scale}
    asked = {"seed": model.run.seed, "sampling": settings["sampling"]}
    full = generate(model, labels, settings["exits"], **asked)
    errors = sample_errors(model, full.samples, labels)
    rows = [row for target, error in errors.items() for row in _foretold(full, error, labels, target)]
    if errors and len(settings["exits"]) > 1:
        limits = settings["levels"], settings["delta"], splits, rng
        rows += sampling_stops.score(model, full, errors, labels, settings["exits"], asked, *limits)
    return [{**known, **row} for row in rows]


def _foretold(full: Generated, error: np.ndarray, labels: np.ndarray, target: str) -> Rows:
    """How well each signal, summed over the trajectory, tells the error of a sample."""
    bad = error > np.quantile(error, 0.75) if len(np.unique(error)) > 2 else error > error.min()
    rows: Rows = []
    for name, total in {**full.summed(), "oracle": error}.items():
        known = {"signal": name, "target": target, "higher_is_better": True}
        wrong = np.flatnonzero(~np.isfinite(total))
        if len(wrong) or (name != "oracle" and np.ptp(total) == 0):
            told = f"{total[wrong[0]]} at sample {wrong[0]}; not finite in {len(wrong)}" if len(wrong) else ALIKE
            rows.append({**known, "metric": "auroc", "value": None, "reason": told})
            continue
        gain = float(error.mean() - error[best_of(total, labels, KEPT)].mean())
        found = {"selection_gain": gain}
        if name != "oracle":
            found |= {"auroc": selective.auroc(total, bad), "spearman": selective.spearman(total, error)}
        rows += [
            {**known, "metric": metric, "value": value, "reason": NONE_WORSE if np.isnan(value) else None}
            for metric, value in found.items()
        ]
    return rows
