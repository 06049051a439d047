"""Stopping on puzzles at equal solving: where each rule stops items of each difficulty, and what that saves.

A rule's thresholds, and the learned gate, come from the fit items. Of these thresholds the boldest is chosen at which
as many calibration items are solved as at the deepest exit; what is reported is of other items, over random halves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from eltbench import accounting
from eltbench.evaluation import solving
from eltbench.evaluation.signals import selective
from eltbench.evaluation.signals.per_sample import PerSample
from eltbench.evaluation.signals.signal_scores import Parted
from eltbench.evaluation.stopping import guarantees
from eltbench.evaluation.stopping import rules as stopping
from eltbench.evaluation.stopping.early_exits import Rows, Splits
from eltbench.training.model import Model

SCOPE = "equal solving"
UNSOLVED = "unsolved"  # the error of an item of which a hidden cell is wrong
POINTS = 20  # thresholds of a rule


def unsolved(observed: PerSample) -> PerSample:
    """The same units with one error, 1 where an item is not solved as a whole (`solving.solved`) and 0 where it is."""
    return replace(observed, errors={UNSOLVED: (observed.errors["error_rate"] > 0).astype(np.float64)})


def rows(
    model: Model,
    observed: PerSample,
    parted: Parted,
    rules: Mapping[str, np.ndarray],
    rng: np.random.Generator,
    splits: int = 200,
) -> Rows:
    """Each rule at the threshold that calibration chose, as means over the splits, of the scope `equal solving`.

    observed: whole items as units, of a world of puzzles. metric, of the test items: `solved` and `loops_run`, the
    share solved where they stop and the mean loops until then, for all and for each of `solving.groups` (stratum);
    `solved_over_full`, that share above the one at the deepest exit; `loops_saved` and `flops_saved`, shares of what
    always running to the deepest exit takes, the head read after every loop but for `fixed`; `loops_saved_over_fixed`,
    above what a fixed depth saves on the same splits; `loops_by_difficulty`, Spearman's correlation of the loop where
    an item stops with its difficulty, zero where all stop at one. The oracle, which knows the errors, has no rows.
    """
    rest = np.concatenate([parted.calibrate, parted.test])
    item, right = observed.item[rest], unsolved(observed).error[:, rest] == 0  # (n,), (E, n)
    halves: Splits = [guarantees.split(item, rng, (0.0, 0.5, 0.5))[1:] for _ in range(splits)]
    clean = model.dataset.heldout()
    groups, difficulty = solving.groups(model.dataset, clean), model.dataset.difficulty(clean)
    found: Rows = []
    fixed = 0.0
    for name, values in rules.items():
        if name == "oracle":
            continue
        grid = stopping.thresholds(values[:, parted.fit], POINTS)
        stop = np.stack([stopping.stops(values[:, rest], limit, stopping.get(name).hits) for limit in grid])  # (K, n)
        stopped = Stopped.of(right, np.asarray(observed.loops)[stop], stop, halves)
        known = {"loops": observed.loops[-1], "split": "heldout", "scope": SCOPE, "rule": name, "target": UNSOLVED}
        whole = stopped.saved(model, observed.loops, every_head=name != "fixed")
        if name == "fixed":
            fixed = whole["loops_saved"]
        else:
            whole["loops_saved_over_fixed"] = whole["loops_saved"] - fixed
        about = {**known, "higher_is_better": True, "n_samples": len(halves[0][1])}
        found += [{**about, "metric": metric, "value": value} for metric, value in whole.items()]
        if difficulty is not None:
            found.append({**about, **stopped.by_difficulty(difficulty[item])})
        for group in groups:
            within = stopped.within(group.within[item])
            about = {**known, "stratum": group.stratum or None, "n_samples": len(within.chosen[0][1])}
            found.append({**about, "metric": "solved", "value": within.mean(within.solved), "higher_is_better": True})
            found.append({**about, "metric": "loops_run", "value": within.mean(within.ran), "higher_is_better": False})
    return found


@dataclass(frozen=True)
class Stopped:
    """A rule on n units under K thresholds: where it stops them, and of every split the one chosen and its test units.

    stop, ran, solved: (K, n), the position of the exit, its loops, and whether the item is solved there. full: (n,),
    whether it is at the deepest exit.
    """

    stop: np.ndarray
    ran: np.ndarray
    solved: np.ndarray
    full: np.ndarray
    chosen: list[tuple[int, np.ndarray]]

    @classmethod
    def of(cls, right: np.ndarray, ran: np.ndarray, stop: np.ndarray, halves: Splits) -> Stopped:
        """Choose on the calibration units; right: (E, n), solved at each exit."""
        solved = np.take_along_axis(right, stop, axis=0)
        chosen = [(boldest(solved[:, of], ran[:, of], right[-1, of]), test) for of, test in halves]
        return cls(stop, ran, solved, right[-1], chosen)

    def mean(self, values: np.ndarray) -> float:
        """The mean over splits of that over test units, of values (K, n); NaN where no split has any."""
        means = [values[setting, units].mean() for setting, units in self.chosen if len(units)]
        return float(np.mean(means)) if means else float("nan")

    def within(self, inside: np.ndarray) -> Stopped:
        """With the test units of a group alone, inside (n,)."""
        return replace(self, chosen=[(setting, test[inside[test]]) for setting, test in self.chosen])

    def saved(self, model: Model, loops: tuple[int, ...], *, every_head: bool) -> dict[str, float]:
        """Solving above that at the deepest exit, and the shares of loops and FLOPs that are saved of it."""
        network = model.parts.network
        cost = np.array([accounting.flops(network, at, at if every_head else 1) for at in loops], float)
        return {
            "solved_over_full": self.mean(self.solved.astype(float) - self.full),
            "loops_saved": 1 - self.mean(self.ran) / loops[-1],
            "flops_saved": 1 - self.mean(cost[self.stop]) / accounting.flops(network, loops[-1]),
        }

    def by_difficulty(self, difficulty: np.ndarray) -> dict[str, Any]:
        """The rank correlation with difficulty (n,), the mean over splits."""
        row: dict[str, Any] = {"metric": "loops_by_difficulty", "value": None}
        if any(np.ptp(difficulty[test]) == 0 for _, test in self.chosen):
            return {**row, "reason": "the items of a split are all of one difficulty"}
        found = [selective.spearman(self.ran[setting, test], difficulty[test]) for setting, test in self.chosen]
        return {**row, "value": float(np.nan_to_num(found).mean())}  # not defined where all stop at one loop


def boldest(solved: np.ndarray, ran: np.ndarray, full: np.ndarray) -> int:
    """The setting of the fewest mean loops at which as many items are solved as at the deepest exit.

    solved, ran: (K, n); full: (n,). There is always one, as the first setting never stops early.
    """
    enough = solved.sum(axis=1) >= full.sum()
    return int(np.where(enough, ran.mean(axis=1), np.inf).argmin())
