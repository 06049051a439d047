"""Exact solving: the held-out items that a model gets right in every hidden cell, by exit and by difficulty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from eltbench.core.streams import stream
from eltbench.data.base import Clean, Dataset
from eltbench.evaluation.heldout import pieces
from eltbench.tasks.base import Batch
from eltbench.training.model import Model

AS_TRAINED, HARDER, LARGER = "as hard as trained", "harder than trained", "larger than trained"
DIFFICULTY = "difficulty "  # begins a stratum of one
FEWEST_SOLVED = 8  # items behind a correlation


class Group(NamedTuple):
    """Held-out items that are counted together, and their name as a stratum; empty for all of them."""

    stratum: str
    within: np.ndarray  # (items,), truths


def check_solvable(dataset: Dataset) -> None:
    """Refuse (ValueError) a world whose items are not right or wrong as a whole."""
    if not dataset.solvable:
        raise ValueError(f"dataset {dataset.name!r} holds no puzzles: its items are not right or wrong as a whole")


def solved(model: Model, clean: Clean, exits: Sequence[int]) -> np.ndarray:
    """Whether every hidden cell of an item is right at each exit (E, items): the likeliest symbols of one pass.

    Raises ValueError for impossible exits, and for a world without puzzles.
    """
    check_solvable(model.dataset)
    exits, engine = model.exits(exits), model.engine
    (batch,) = model.task.heldout(clean, model.spec, stream(model.run.dataset, 0, "heldout"), 1)
    found = []
    for _, piece in pieces([batch]):
        uploaded = engine.upload(piece)
        outputs = engine.predict(uploaded, exits)
        found.append([engine.numpy(model.task.right(output, uploaded)) for output in outputs])
    return np.concatenate(found, axis=1)


def guesses(model: Model, batch: Batch, exits: Sequence[int]) -> np.ndarray:
    """The likeliest symbol of every cell at each exit (E, items, T), from one pass over a host batch."""
    uploaded = model.engine.upload(batch)
    outputs = model.engine.predict(uploaded, tuple(exits))
    return np.stack([model.engine.numpy(model.task.clean(each, uploaded)).argmax(axis=-1) for each in outputs])


def solved_by_sampling(model: Model, clean: Clean, loops: int, **sampling: Any) -> np.ndarray:
    """Whether the task's sampler fills every hidden cell of an item rightly (items,), in several steps of `loops` each.

    clean: items that say what they hide. sampling: settings of the task's sampler. Raises ValueError for a world
    without puzzles, and for one that leaves it to the task what is hidden.
    """
    check_solvable(model.dataset)
    if clean.hidden is None:
        raise ValueError(f"solving by sampling: the items of {model.dataset.name!r} do not say what they hide")
    found = []
    for _, piece in pieces([clean]):
        filled = model.sample(piece.labels, loops, seed=model.run.seed, given=piece, **sampling)
        found.append((filled == piece.values).all(axis=1))
    return np.concatenate(found)


def groups(dataset: Dataset, clean: Clean) -> list[Group]:
    """All items, those of each difficulty, and those within and beyond what training holds, where there are any."""
    found, difficulty = [Group("", np.ones(len(clean.labels), bool))], dataset.difficulty(clean)
    if difficulty is not None:
        found += [Group(f"{DIFFICULTY}{level}", difficulty == level) for level in np.unique(difficulty)]
        if (hardest := dataset.hardest_trained) is not None:
            found += [Group(AS_TRAINED, difficulty <= hardest), Group(HARDER, difficulty > hardest)]
    return [group for group in found if group.within.any()]


def first_exits(right: np.ndarray, exits: Sequence[int]) -> np.ndarray:
    """The first exit at which each item is solved (items,), NaN where none solves it; right: (E, items)."""
    return np.where(right.any(axis=0), np.asarray(exits, float)[right.argmax(axis=0)], np.nan)


def rows(
    model: Model, exits: Sequence[int], sampled_loops: Sequence[int] = (), sampling: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Shares of solved items in each group, at each exit and, by sampling, at each of `sampled_loops`.

    Where items have a difficulty, Spearman's correlation of the first exit that solves an item with it, over the items
    that some exit solves; empty with a reason where fewer than eight are solved, or all alike.
    """
    dataset, sampling = model.dataset, dict(sampling or {})
    clean, larger = dataset.heldout(), dataset.larger()
    found, right = [], solved(model, clean, exits)
    sets = [(clean, right, groups(dataset, clean))]
    if larger is not None:
        sets.append((larger, solved(model, larger, exits), [Group(LARGER, np.ones(len(larger.labels), bool))]))
    for _, shown, counted in sets:
        found += [
            _share("solved", loops, at, group) for loops, at in zip(exits, shown, strict=True) for group in counted
        ]
    settings = model.task.sampling(**sampling)
    how = {"sampler": settings.sampler, "sampling_steps": settings.steps, "guidance_scale": settings.guidance_scale}
    for loops in sampled_loops:
        for items, _, counted in sets:
            at = solved_by_sampling(model, items, loops, **sampling)
            found += [{**_share("solved_by_sampling", loops, at, group), **how} for group in counted]
    difficulty = dataset.difficulty(clean)
    if difficulty is not None and len(exits) > 1:
        found.append({"metric": "first_exit_by_difficulty", **_correlation(first_exits(right, exits), difficulty)})
    return [{**row, "split": "heldout"} for row in found]


def _share(metric: str, loops: int, right: np.ndarray, group: Group) -> dict[str, Any]:
    within = right[group.within]
    row = {"metric": metric, "loops": loops, "value": float(within.mean()), "n_samples": len(within)}
    return {**row, "higher_is_better": True, "stratum": group.stratum or None}


def _correlation(first: np.ndarray, difficulty: np.ndarray) -> dict[str, Any]:
    known = np.isfinite(first)
    count = int(known.sum())
    if count < FEWEST_SOLVED:
        return {"value": None, "n_samples": count, "reason": f"{count} items are solved at any exit, too few"}
    if not (np.ptp(first[known]) and np.ptp(difficulty[known])):
        return {"value": None, "n_samples": count, "reason": "the solved items are all of one exit or one difficulty"}
    from scipy import stats  # half a second to load, which what only plans does without

    return {"value": float(stats.spearmanr(first[known], difficulty[known]).statistic), "n_samples": count}
