"""Harder than any training: claims on the share of held-out puzzles that a model solves, and their evidence.

All look at items that are harder than any trained on, at exits up to 4·L_max. Shares differ in points, seed by seed. A
model's best exit is, for each seed, the one with the greatest mean over the other seeds, so that no seed chooses for
itself. The intervals of these claims are widened over this family alone: no image world can decide them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pandas as pd

from eltbench.evaluation.solving import HARDER
from eltbench.evidence.claims import Claim, Condition, Evidence
from eltbench.evidence.regions import Region

REACH = 4  # puzzles are solved up to this multiple of L_max
POINTS = 0.02  # a share of solved items that differs by less is taken as the same
RECALL = "recall"  # the role of elt with input injection
RIVALS = ("no-ilsd", "progressive", "random-loops")
FIRST_EXIT = "first_exit_by_difficulty"


class Solving(NamedTuple):
    """The harder items that a model solves at a multiple of its L_max; None: at its best exit."""

    trainer: str
    multiple: int | None = None
    role: str = "main"


class FirstExits(NamedTuple):
    """The first exits that solve a model's items, in their rank correlation with the items' difficulty."""

    trainer: str
    role: str = "main"


def _claim(id: str, statement: str, *conditions: Condition, reference: str) -> Claim:
    models = dict.fromkeys((side.trainer, side.role) for each in conditions for side in each.compares)
    needs = tuple({"trainer": trainer, "role": role} for trainer, role in models)
    return Claim(id, "open question", statement, conditions, reference=reference, needs=needs, family="solving")


def _points(name: str, estimand: str, *compares: Solving | FirstExits, **region: float) -> Condition:
    return Condition(name, estimand, Region(**region), "additive", compares)


BEST = "at its best exit"
CLAIMS = (
    _claim(
        "harder-by-loops",
        "On items harder than any trained on, more loops than L_max solve more than L_max do",
        _points(
            "double",
            "share solved at 2·L_max minus that at L_max, elt",
            Solving("elt", 2),
            Solving("elt", 1),
            low=POINTS,
        ),
        reference="arXiv 2106.04537, 2202.05826: trained on small mazes, run longer on large ones",
    ),
    _claim(
        "recall-prevents-overthinking",
        "With recall, 4·L_max loops lose nothing against the best exit; without, they do",
        _points(
            "with",
            f"share solved at 4·L_max minus that {BEST}, elt with recall",
            Solving("elt", 4, RECALL),
            Solving("elt", None, RECALL),
            low=-POINTS,
        ),
        _points(
            "without",
            f"share solved at 4·L_max minus that {BEST}, elt",
            Solving("elt", 4),
            Solving("elt"),
            high=-POINTS,
        ),
        reference="arXiv 2202.05826",
    ),
    _claim(
        "ilsd-generalises",
        "At their best exits, ILSD solves as many harder items as other ways to train a loop",
        *(
            _points(rival, f"share solved {BEST}, elt minus {rival}", Solving("elt"), Solving(rival), low=-POINTS)
            for rival in RIVALS
        ),
        reference="arXiv 2202.05826, 2502.05171",
    ),
    _claim(
        "depth-by-difficulty",
        "The first exit that solves an item grows with its difficulty",
        _points("rank", "rank correlation of first solving exit and difficulty, elt", FirstExits("elt"), low=0.1),
        reference="no number given",
    ),
)


def evidence(rows: pd.DataFrame) -> Iterator[tuple[Claim, Evidence]]:
    """Per-seed effects of every claim that these rows of one cell can ask."""
    harder = rows[(rows["metric"] == "solved") & (rows["stratum"] == HARDER)]
    for claim in CLAIMS:
        asked = [each for each in condition_models(claim) if not _of(rows, each).empty]
        if len(asked) < len(condition_models(claim)):
            continue
        seeds = {int(seed) for each in condition_models(claim) for seed in _of(rows, each)["seed"]}
        model, name = asked[0], claim.conditions[0].name
        if isinstance(model, FirstExits):
            found = _of(rows[rows["metric"] == FIRST_EXIT], model).set_index("seed")["value"]
            if len(found):
                absent = {name: sorted(seeds - set(found.index))}
                yield claim, Evidence({name: found.to_numpy(float)}, absent=absent, counts=(name,))
        elif not harder.empty:
            yield claim, _differences(claim, harder, seeds)


def condition_models(claim: Claim) -> list[Solving | FirstExits]:
    """The models that a claim compares."""
    return [side for condition in claim.conditions for side in condition.compares]


def _differences(claim: Claim, harder: pd.DataFrame, seeds: set[int]) -> Evidence:
    """seeds: those that every condition should have, also where solving failed for all that it compares."""
    primary, absent, without = {}, {}, {}
    for condition in claim.conditions:
        first, second = (_shares(harder, side) for side in condition.compares)
        effect = (first - second).dropna()
        primary[condition.name] = effect.to_numpy()
        absent[condition.name] = sorted(seeds - set(effect.index))
        if not any((_of(harder, side)["value"] > 0).any() for side in condition.compares):
            without[condition.name] = "no harder item is solved at any exit"
    return Evidence(primary, absent=absent, without=without, counts=tuple(primary))


def _of(rows: pd.DataFrame, model: Solving | FirstExits) -> pd.DataFrame:
    return rows[(rows["trainer"] == model.trainer) & (rows["role"] == model.role)]


def _shares(harder: pd.DataFrame, model: Solving) -> pd.Series:
    """The share solved by seed, at the asked exit or at the best of the other seeds."""
    here = _of(harder, model)
    by_exit = here.pivot(index="seed", columns="loops", values="value")
    if model.multiple is not None:
        wanted = here["loops"] == model.multiple * here["max_loops"]
        return here[wanted].set_index("seed")["value"]
    chosen = {}
    for seed in by_exit.index:
        others = by_exit.drop(index=seed)
        best = (by_exit if others.empty else others).mean().idxmax()
        chosen[seed] = by_exit[best][seed]
    return pd.Series(chosen, dtype=float)
