"""What moved between two published result sets: other seeds, another machine, version, backend or preset.

Verdicts and estimates are computed from the rows of each set. The per-seed effects of the two sets are treated as
independent, even for equal seeds (another backend draws other weights): the interval of their difference is Welch's,
widened (Bonferroni) over all comparisons. An effect moved if the interval excludes zero.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from eltbench import studies
from eltbench.core import tables
from eltbench.core.atomic import expanded
from eltbench.evidence import publishing
from eltbench.evidence.claims import Cell, Condition
from eltbench.evidence.intervals import Interval, welch_interval
from eltbench.evidence.regions import Scale, quantity
from eltbench.studies import deciding, recipes


@dataclass(frozen=True)
class Side:
    """One condition as one result set has it: where it was measured, its verdict, and its effects (n,) by seed."""

    cell: Cell
    verdict: str
    effects: np.ndarray

    @property
    def estimate(self) -> float:
        """Mean over seeds, NaN without any or where one is not finite."""
        return float(np.mean(self.effects)) if len(self.effects) else math.nan


@dataclass(frozen=True)
class Compared:
    """One condition of a claim on both sides; a side is None where that set lacks the cell.

    difference: second − first on the condition's scale, None unless both have two finite effects or more.
    """

    claim: str
    condition: Condition
    first: Side | None
    second: Side | None
    difference: Interval | None

    @property
    def moved(self) -> bool:
        """Whether the interval of the difference excludes zero."""
        return self.difference is not None and not self.difference.low <= 0 <= self.difference.high

    @property
    def verdict_moved(self) -> bool:
        """Whether both sides have a verdict and the two differ."""
        return self.first is not None and self.second is not None and self.first.verdict != self.second.verdict


def compare(first: str | Path, second: str | Path, *, level: float = 0.95) -> list[Compared]:
    """Every condition that either folder decides, paired by claim, condition, task and dataset, and by backend.

    If each side measured a task and dataset on one backend, the two are paired, so that two backends can be compared.
    A folder holds claims.json and rows.parquet. Raises ValueError if one is missing or damaged, for two different
    studies, and for a level outside (0, 1).
    """
    return between(opened(first), opened(second), level=level)


@dataclass(frozen=True)
class Opened:
    """A folder of results: its study, the commands that made it, its rows decided anew, and its measured conditions."""

    folder: Path
    study: str
    commands: list[dict[str, Any]]
    retold: deciding.Retold
    sides: dict[tuple[str, str], list[Side]]  # by claim and name of the condition


def between(first: Opened, second: Opened, *, level: float = 0.95) -> list[Compared]:
    """As `compare`, of folders that are read already."""
    name, left, right = first.study, first.sides, second.sides
    if name != second.study:
        raise ValueError(
            f"{first.folder} is of the study {name!r} and {second.folder} of {second.study!r}; compare two of one study"
        )
    pairs = [
        (claim.id, condition, *pair)
        for claim in studies.get(name).claims
        for condition in claim.conditions
        for pair in _paired(*(side.get((claim.id, condition.name), []) for side in (left, right)))
    ]
    count = sum(_comparable(one, two) for *_, one, two in pairs)
    found = []
    for id, condition, one, two in pairs:
        difference = None
        if one is not None and two is not None and _comparable(one, two):
            difference = welch_interval(two.effects, one.effects, level=level, comparisons=count)
        found.append(Compared(id, condition, one, two, difference))
    return found


def opened(path: str | Path) -> Opened:
    """Read a folder of results and decide it anew; ValueError if a file is missing or damaged."""
    folder = expanded(path)
    path = folder / "claims.json"
    try:
        published = json.loads(path.read_bytes())
        study, decided = studies.create(published["study"]), published["claims"]
        told = {(id, Cell.of(entry)) for id, claim in decided.items() for entry in claim["cells"]}
    except OSError as error:
        raise ValueError(f"{folder} is no folder of results: {error}") from error
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged or of another version: {error!r}") from error
    commands = _commands(folder)
    retold = deciding.retell(folder, commands, most=math.inf)
    evidence, decided = study.evidence(retold.rows), retold.content["claims"]
    for id, cell in told:
        if cell not in evidence.get(id, {}):
            raise ValueError(f"{path} decides {id!r} in {cell.name}, of which its rows say nothing")
    found: dict[tuple[str, str], list[Side]] = {}
    for id, claim in decided.items():
        for entry in claim["cells"]:
            cell = Cell.of(entry)
            for condition in entry["conditions"]:
                effects = np.asarray(evidence[id][cell].primary[condition["condition"]], float)
                found.setdefault((id, condition["condition"]), []).append(Side(cell, condition["verdict"], effects))
    return Opened(folder, study.name, commands, retold, found)


def preliminaries(first: Opened, second: Opened) -> list[str]:
    """The lines above the table: how the two were trained differently, and which files do not agree."""
    said = [f"{each.folder}: {note}" for each in (first, second) for note in each.retold.notes]
    study, commands = studies.create(first.study), [first.commands, second.commands]
    if not all(commands):
        return [*said, "how the two were trained is not known: provenance.json is missing"]
    if not study.trained:
        return said  # its presets describe no training
    one, two = map(recipes.presets_of, commands)
    shared = {preset.backend for preset in one} & {preset.backend for preset in two}
    found = recipes.differences(study, one, two, but=() if shared else ("backend",))
    return [*said, *(f"{each.where}: {each.told('first', 'second')}" for each in found)]


def _commands(folder: Path) -> list[dict[str, Any]]:
    path = folder / "provenance.json"
    return publishing.read_commands(path) if path.exists() else []


def _paired(left: Sequence[Side], right: Sequence[Side]) -> Iterator[tuple[Side | None, Side | None]]:
    """Both sides' cells, matched by task, dataset and backend, or by the first two where each has a single one left."""
    worlds = dict.fromkeys(side.cell[:2] for side in (*left, *right))
    for world in worlds:
        one, two = ({side.cell.backend: side for side in sides if side.cell[:2] == world} for sides in (left, right))
        both = [backend for backend in one if backend in two]
        yield from ((one.pop(backend), two.pop(backend)) for backend in both)
        if len(one) == len(two) == 1:
            yield one.popitem()[1], two.popitem()[1]
        yield from ((side, None) for side in one.values())
        yield from ((None, side) for side in two.values())


def _comparable(one: Side | None, two: Side | None) -> bool:
    return all(
        side is not None and len(side.effects) > 1 and bool(np.isfinite(side.effects).all()) for side in (one, two)
    )


HEAD = ("claim", "where", "measured", "first", "second", "second − first", "moved")


def lines(found: Sequence[Compared]) -> list[tuple[str, ...]]:
    """One line of text cells a condition, under `HEAD`."""
    shown = []
    for entry in found:
        moved = [name for name, so in (("verdict", entry.verdict_moved), ("estimate", entry.moved)) if so]
        difference, scale = "–", entry.condition.scale
        if entry.difference is not None:
            values = (entry.difference.estimate, entry.difference.low, entry.difference.high)
            difference = "{} [{}, {}]".format(*(quantity(value, scale) for value in values))
        sides = (_side(side, scale) for side in (entry.first, entry.second))
        last = ", ".join(moved) or ("–" if entry.difference is None else "no")
        shown.append((entry.claim, _where(entry), entry.condition.estimand, *sides, difference, last))
    return shown


def markdown(found: Sequence[Compared], names: tuple[str, str] = ("first", "second")) -> str:
    """The table that documents show; `names` stand for the two sides."""
    first, second = names
    head = [*HEAD[:3], first, second, f"{second} − {first}", HEAD[-1]]
    return tables.markdown(head, ([f"`{line[0]}`", *line[1:]] for line in lines(found)))


def table(found: Sequence[Compared]) -> Table:
    """The table for a terminal."""
    return tables.terminal(HEAD, (tuple(map(escape, line)) for line in lines(found)))


def in_short(found: Sequence[Compared]) -> dict[str, Any]:
    """Counts, for the one JSON line that ends a command's output."""
    return {
        "compared": sum(entry.difference is not None for entry in found),
        "verdicts_moved": [f"{entry.claim} {_where(entry)}" for entry in found if entry.verdict_moved],
        "estimates_moved": [f"{entry.claim} {entry.condition.name} {_where(entry)}" for entry in found if entry.moved],
        "only_first": sum(entry.second is None for entry in found),
        "only_second": sum(entry.first is None for entry in found),
    }


def _where(entry: Compared) -> str:
    cells = [side.cell for side in (entry.first, entry.second) if side is not None]
    return cells[0]._replace(backend=" / ".join(dict.fromkeys(cell.backend for cell in cells))).name


def _side(side: Side | None, scale: Scale) -> str:
    if side is None:
        return "–"
    shown = "not measured" if math.isnan(side.estimate) else quantity(side.estimate, scale)
    return f"{side.verdict}: {shown} (n = {len(side.effects)})"
