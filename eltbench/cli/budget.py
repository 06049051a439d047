"""The part of a preset that fits into a given time: models that claims need come first, each with all its seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from eltbench.core.durations import duration
from eltbench.evidence.claims import FEWEST_SEEDS
from eltbench.evidence.results import describe
from eltbench.execution.estimate import Estimate
from eltbench.execution.sweep import Plan
from eltbench.studies.base import Study
from eltbench.training.job import Job

HEADLINE = {"main": 0, "equal-compute": 1, "equal-parameters": 1}
LESSER = 2  # rank of every other role: models for one depth, toggles, variants

Seconds = Callable[[Collection[str]], float]
"""Seconds until the runs of these ids are made; those that are cached take none."""


class Model(NamedTuple):
    """One arm in one world, in all its seeds."""

    name: str
    rank: int
    jobs: tuple[Job, ...]
    run_ids: frozenset[str]  # its own and its companions'


class Need(NamedTuple):
    """The models (by their place in the plan) that a claim compares in one cell."""

    claim: str
    cell: str
    models: frozenset[int]


@dataclass(frozen=True)
class Choice:
    """The jobs that fit, a list of what was left out, and the cells where each claim then stays undecided."""

    jobs: list[Job]
    left_out: list[str]
    undecided: dict[str, list[str]]

    def lacks(self) -> dict[str, Any]:
        """Left-out models and undecided claims, as plain JSON values."""
        return {"left_out": self.left_out, "undecided": self.undecided}

    def told(self) -> list[str]:
        """A line for each model that is left out and for each claim that stays undecided, with its cells."""
        lines = [f"left out: {name}" for name in self.left_out] or ["left out: nothing"]
        for claim, cells in self.undecided.items():
            lines.append(f"cannot be decided by these runs: {claim}, {'; '.join(cells)}")
        return lines


def choose(study: Study, jobs: Sequence[Job], cost: Seconds, budget: float) -> Choice:
    """The largest part of a plan that `cost` puts within `budget` seconds; raises ValueError where nothing fits.

    A model is kept with every seed or not at all; cached ones are kept. Others are added cheapest first, in this order:
    comparisons of headline models (roles main and equal-…), other comparisons of claims, models that no claim needs.
    Seeds are reduced (minimum three, the same for every model) only if no claim would fit otherwise.
    """
    seeds = list(dict.fromkeys(job.run.seed for job in jobs))
    fewest = min(FEWEST_SEEDS, len(seeds))
    for count in range(len(seeds), fewest - 1, -1):
        taken = seeds if count == len(seeds) else _seeds(study, jobs, count, cost)
        models = _models([job for job in jobs if job.run.seed in taken])
        needs = _needs(study, models)
        kept = _largest(models, needs, cost, budget)
        if kept:
            left_out = [model.name for place, model in enumerate(models) if place not in kept]
            if count < len(seeds):
                others = [str(seed) for seed in seeds if seed not in taken]
                left_out.append(f"seeds {' '.join(others)} of all that is kept")
            undecided: dict[str, list[str]] = {}
            for need in needs:
                if not need.models <= kept:
                    undecided.setdefault(need.claim, []).append(need.cell)
            return Choice([job for place in sorted(kept) for job in models[place].jobs], left_out, undecided)
    smallest = min(needs or _alone(models), key=lambda need: _cost(models, need.models, cost))
    least = math.ceil(_cost(models, smallest.models, cost))
    names = ", ".join(models[place].name for place in sorted(smallest.models))
    what = f"what {smallest.claim} compares in {smallest.cell}: {names}" if smallest.claim else names
    raise ValueError(
        f"--budget: no model {'that a claim needs ' if needs else ''}fits into {duration(budget)} with {fewest} "
        f"{'seed' if fewest == 1 else 'seeds'}; the smallest budget that would work is {least}s ({duration(least)}), "
        f"for {what}"
    )


def listing(jobs: Sequence[Job], planned: Plan, expected: Estimate) -> list[str]:
    """A line for each run (cached or to make), the estimated time of the others, and how it was estimated."""
    runs = {job.run_id: job for job in jobs if job.study}
    runs |= {job.run_id: job for job in jobs if job.run_id not in runs}
    lines = [
        f"{run_id}  {'cached ' if run_id in planned.cached else 'to make'}  {job.name}{_role(job)}"
        for run_id, job in runs.items()
    ]
    missing = sum(run_id in planned.missing for run_id in runs)
    time = f"about {duration(expected.seconds(runs))} with {expected.workers} workers"
    known = [f"how that is known: {expected.basis}"] if missing else []
    return [*lines, *known, f"{len(runs) - missing} cached, {missing} to make, {time}"]


def _seeds(study: Study, jobs: Sequence[Job], count: int, cost: Seconds) -> Sequence[int]:
    """The `count` seeds that decide some claim in the least time; ties: cheaper other models, then the first."""
    models = _models(jobs)
    seeds = list(dict.fromkeys(job.run.seed for job in jobs))
    run_ids = {
        (place, seed): _run_ids([job for job in model.jobs if job.run.seed == seed])
        for place, model in enumerate(models)
        for seed in seeds
    }

    def of(places: Collection[int], seeds: Sequence[int]) -> float:
        return cost(frozenset().union(*(run_ids[place, seed] for place in places for seed in seeds)))

    def cheapest(need: Need) -> list[int]:
        return sorted(seeds, key=lambda seed: (of(need.models, [seed]), of(range(len(models)), [seed])))[:count]

    chosen = [(need, cheapest(need)) for need in _needs(study, models) or _alone(models)]
    return min(chosen, key=lambda choice: of(choice[0].models, choice[1]))[1]


def _largest(models: Sequence[Model], needs: Sequence[Need], cost: Seconds, budget: float) -> set[int]:
    """The places of the models that fit; none where claims have needs and none of these fits."""
    kept = {place for place in range(len(models)) if _cost(models, {place}, cost) == 0}
    headline = [need for need in needs if all(models[place].rank < LESSER for place in need.models)]
    tiers = [headline, [need for need in needs if need not in headline]]
    tiers += [[need for need in _alone(models) if models[min(need.models)].rank == rank] for rank in range(LESSER + 1)]
    for tier in tiers:
        left = list(tier)
        while left:
            nearest = min(left, key=lambda need: _cost(models, kept | need.models, cost))
            if _cost(models, kept | nearest.models, cost) > budget:
                break
            kept |= nearest.models
            left.remove(nearest)
    return kept if not needs or any(need.models <= kept for need in needs) else set()


def _cost(models: Sequence[Model], places: Collection[int], cost: Seconds) -> float:
    return cost(frozenset().union(*(models[place].run_ids for place in places)))


def _alone(models: Sequence[Model]) -> list[Need]:
    return [Need("", "", frozenset({place})) for place in range(len(models))]


def _models(jobs: Sequence[Job]) -> list[Model]:
    """The plan by arm and world, in its order."""
    groups: dict[tuple[Any, ...], list[Job]] = {}
    for job in jobs:
        groups.setdefault((replace(job.run, seed=0), *job.keys.values()), []).append(job)
    models = []
    for its in groups.values():
        rank = HEADLINE.get(its[0].keys["role"], LESSER)
        models.append(Model(its[0].model + _role(its[0]), rank, tuple(its), _run_ids(its)))
    return models


def _run_ids(jobs: Sequence[Job]) -> frozenset[str]:
    """The runs of these jobs and of their companions."""
    return frozenset(Job(run).run_id for job in jobs for run in (job.run, *job.companions))


def _role(job: Job) -> str:
    role = job.keys.get("role", "companion")
    return "" if role == "main" else f" ({role})"


def _needs(study: Study, models: Sequence[Model]) -> list[Need]:
    """What each claim compares, in each cell where this plan has all of it."""
    told = [describe(model.jobs[0]) for model in models]
    cells: dict[tuple[tuple[str, Any], ...], list[int]] = {}
    for place, model in enumerate(told):
        cells.setdefault(tuple((name, model[name]) for name in study.compared_within), []).append(place)
    needs = []
    for claim in study.claims:
        for cell, places in cells.items():
            found = [[place for place in places if side.items() <= told[place].items()] for side in claim.needs]
            if all(found):
                where = " ".join(value if isinstance(value, str) else f"{name} {value}" for name, value in cell)
                needs.append(Need(claim.id, where, frozenset().union(*found)))
    return needs
