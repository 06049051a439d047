"""How a preset trains and measures a world: models that a claim compares may differ in trainer, arm and seed alone.

Two presets are compared by planning the same arms with both, so that a default spelt out by one makes no difference.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from eltbench import trainers
from eltbench.studies.base import Study
from eltbench.studies.presets import Arm, Preset, World, presets_of

COMPARED = ("seed", "trainer", "trainer_options")  # fields of a run in which compared models may differ
Place = tuple[str, ...]
Recipe = tuple[Preset, World]


class Difference(NamedTuple):
    """A field in which a world is treated differently by two presets, and what each says."""

    where: str
    field: str
    first: Any
    second: Any

    def told(self, first: str, second: str) -> str:
        """For people, with names for the two sides."""
        return f"field {self.field}: {first} {json.dumps(self.first)}, {second} {json.dumps(self.second)}"


def differences(
    study: Study, first: Iterable[Preset], second: Iterable[Preset], *, but: Sequence[str] = ()
) -> list[Difference]:
    """In what two sets of presets treat the worlds that both have differently; the last preset of each world counts.

    but: columns, such as backend, in which the worlds of the two may differ. Raises ValueError where one preset has a
    world twice and treats it in two ways.
    """
    ours, theirs = _recipes(study, first, but), _recipes(study, second, but)
    return [
        Difference(" ".join(place), field, *values)
        for place in ours
        if place in theirs
        for field, values in _differing(study, ours[place], theirs[place]).items()
    ]


def check_worlds(study: Study, presets: Iterable[Preset]) -> None:
    """Raise ValueError where a preset has a world twice and treats it in two ways, which a claim would compare."""
    _recipes(study, presets, ())


def refuse_others(
    study: Study, published: pd.DataFrame, commands: Iterable[Mapping[str, Any]], presets: Sequence[Preset]
) -> None:
    """Raise ValueError where publishing these presets would compare models of two recipes; call it before training."""
    names = _names(study, presets[0])
    there = {" ".join(map(str, place)) for place in published[names].drop_duplicates().itertuples(index=False)}
    found = [each for each in differences(study, presets_of(commands), presets) if each.where in there]
    if found:
        told = "; ".join(each.told("published", "this command") for each in found if each.where == found[0].where)
        raise ValueError(
            f"the published models of {found[0].where} were trained or measured otherwise: {told}; models that a claim "
            "compares may differ in trainer, arm and seed alone: --force replaces all published rows, or choose "
            "another results folder"
        )


def _names(study: Study, preset: Preset) -> list[str]:
    """The columns that name a world in a claim of the study, of those that a plan knows."""
    known = {"task", "dataset", "backend", *study.keys(preset, preset.worlds[0], preset.arms[0])}
    return [name for name in study.compared_within if name in known]


def _recipes(study: Study, presets: Iterable[Preset], without: Sequence[str]) -> dict[Place, Recipe]:
    found: dict[Place, Recipe] = {}
    for preset in presets:
        own: dict[Place, Recipe] = {}
        for world in preset.worlds if preset.arms else ():
            known = {"task": world.task, "dataset": world.dataset, "backend": preset.backend}
            known |= study.keys(preset, world, preset.arms[0])
            place = tuple(str(known[name]) for name in _names(study, preset) if name not in without)
            if place in own and (wrong := _differing(study, own[place], (preset, world))):
                told = "; ".join(Difference("", name, *both).told("once", "then") for name, both in wrong.items())
                raise ValueError(
                    f"preset {preset.name!r} has {' '.join(place)} twice, and a claim would compare the two: {told}"
                )
            own[place] = preset, world
        found |= own
    return found


def _differing(study: Study, first: Recipe, second: Recipe) -> dict[str, tuple[Any, Any]]:
    """Field → both values, of the first arm whose run or measurement is not the same."""
    mine, theirs = first[0].sized_arms(), second[0].sized_arms()
    known = {*trainers.names(), *(arm.trainer for arm in theirs)}
    for arm in [arm for arm in mine if arm.trainer in known] or theirs:
        one, two = (_flat(study, recipe, arm) for recipe in (first, second))
        if one is not None and two is not None:
            found = {name: (one.get(name), two.get(name)) for name in {**one, **two}}
            if wrong := {name: values for name, values in found.items() if values[0] != values[1]}:
                return wrong
    return {}


def _flat(study: Study, recipe: Recipe, arm: Arm) -> dict[str, Any] | None:
    """All fields of the run and of what is measured of it; None where the preset cannot have such an arm."""
    preset, world = recipe
    try:
        run = preset.run(world, arm, seed=0).to_dict()
        measured = study.settings(preset, world, arm)
    except ValueError:
        return None
    flat: dict[str, Any] = {}
    for name, value in {**run, "measurement": dict(measured)}.items():
        if name not in COMPARED:
            flat |= {f"{name}.{key}": each for key, each in value.items()} if isinstance(value, dict) else {name: value}
    return flat
