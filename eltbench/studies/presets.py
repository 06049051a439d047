"""Presets: the named sizes of a study, declared in TOML that reviewers read and edit."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any

from eltbench import data, tasks, trainers
from eltbench.core.atomic import expanded
from eltbench.core.config import Architecture, Optimisation, Run
from eltbench.core.validation import build, check_name, nearest, unknown, whole
from eltbench.studies.grid import Grid

CONFIGS = {"architecture": Architecture, "optimisation": Optimisation}
MOST_SEEDS = 10_000  # of one command
SETTINGS = {each.name: part for part, config in CONFIGS.items() for each in fields(config)}
"""Of which part of a run each setting is that a sweep may name."""


@dataclass(frozen=True)
class World:
    """A task on a dataset, with what differs from the preset's own settings."""

    task: str
    dataset: str
    architecture: Mapping[str, Any] = field(default_factory=dict)
    optimisation: Mapping[str, Any] = field(default_factory=dict)
    measurement: Mapping[str, Any] = field(default_factory=dict)
    task_options: Mapping[str, Any] = field(default_factory=dict)
    dataset_options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Arm:
    """A trainer in a role: `main`, or a control such as `dedicated` (trained for that very depth)."""

    trainer: str
    role: str = "main"
    architecture: Mapping[str, Any] = field(default_factory=dict)
    optimisation: Mapping[str, Any] = field(default_factory=dict)
    trainer_options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Preset:
    """Every world with every arm and every seed."""

    name: str
    about: str = ""
    smoke: bool = False  # a smoke preset's claims always read inconclusive
    seeds: tuple[int, ...] = (0, 1, 2)
    worlds: tuple[World, ...] = ()
    arms: tuple[Arm, ...] = ()
    grid: Grid = field(default_factory=Grid)  # the sizes of every arm that names none
    sweep: Mapping[str, Sequence[Any]] = field(default_factory=dict)  # values of settings that every arm is tried with
    architecture: Mapping[str, Any] = field(default_factory=dict)
    optimisation: Mapping[str, Any] = field(default_factory=dict)
    measurement: Mapping[str, Any] = field(default_factory=dict)
    backend: str = "torch"
    device: str = "cpu"
    precision: str = "fp32"
    compile: bool = False
    threads: int = 1
    devices: int = 1  # among which every batch is divided
    validation: bool = False  # measure training items that are held back, to choose by, and not the held-out ones

    def __post_init__(self) -> None:
        check_name("preset", self.name)
        for name, values in self.sweep.items():
            if name not in SETTINGS:
                raise ValueError(f"preset {self.name!r}: {unknown('setting in sweep', name, list(SETTINGS))}")
            if not isinstance(values, list | tuple) or not values:
                raise ValueError(f"preset {self.name!r}: sweep.{name} must be a list of values, given {values!r}")

    def to_dict(self) -> dict[str, Any]:
        """The preset as plain JSON values, for the provenance of results."""
        return asdict(self)

    def sized_arms(self) -> list[Arm]:
        """The arms, each once for every size of the grid and every value of the sweep that it leaves open."""
        sized = [
            replace(arm, architecture=size) for arm in self.arms for size in self.grid.architectures(arm.architecture)
        ]
        return [swept for arm in sized for swept in self._swept(arm)]

    def _swept(self, arm: Arm) -> Iterator[Arm]:
        left = [name for name in self.sweep if name not in {**arm.architecture, **arm.optimisation}]
        for values in product(*(self.sweep[name] for name in left)):
            said: dict[str, dict[str, Any]] = {"architecture": {}, "optimisation": {}}
            for name, value in zip(left, values, strict=True):
                said[SETTINGS[name]][name] = value
            yield replace(
                arm,
                architecture={**arm.architecture, **said["architecture"]},
                optimisation={**arm.optimisation, **said["optimisation"]},
            )

    def run(self, world: World, arm: Arm, seed: int) -> Run:
        """The run of one arm in one world; the arm's settings win over the world's, the world's over the preset's.

        Where all are silent, the trainer's own defaults of the architecture hold.
        """
        defaults = trainers.get(arm.trainer).architecture_defaults
        architecture = {**defaults, **self.architecture, **world.architecture, **arm.architecture}
        return Run(
            trainer=arm.trainer,
            task=world.task,
            dataset=world.dataset,
            seed=seed,
            architecture=build(Architecture, architecture),
            optimisation=build(Optimisation, {**self.optimisation, **world.optimisation, **arm.optimisation}),
            trainer_options=tuple(arm.trainer_options.items()),
            task_options=tuple(world.task_options.items()),
            dataset_options=tuple(world.dataset_options.items()),
            backend=self.backend,
            device=self.device,
            precision=self.precision,  # type: ignore[arg-type]
            compile=self.compile,
            threads=self.threads,
            devices=self.devices,
            validation=self.validation,
        )

    def narrowed(
        self, tasks: tuple[str, ...] = (), trainers: tuple[str, ...] = (), seeds: tuple[int, ...] = ()
    ) -> Preset:
        """Only these tasks, trainers and seeds; a trainer given as "+name" is added as a further main arm.

        Seeds need not be the preset's own. Raises ValueError for a task or trainer that the preset does not have.
        """
        kept = tuple(name for name in trainers if not name.startswith("+"))
        added = tuple(Arm(name[1:]) for name in trainers if name.startswith("+"))
        for kind, wanted, known in (
            ("task", tasks, [world.task for world in self.worlds]),
            ("trainer", kept, [arm.trainer for arm in self.arms]),
        ):
            for name in wanted:
                if name not in known:
                    message = unknown(f"{kind} of preset {self.name!r}", name, sorted(set(known)))
                    raise ValueError(message + (_addable(name, known) if kind == "trainer" else ""))
        return replace(
            self,
            worlds=tuple(world for world in self.worlds if not tasks or world.task in tasks),
            arms=(*(arm for arm in self.arms if not kept or arm.trainer in kept), *added),
            seeds=seeds or self.seeds,
        )

    def of_dataset(self, dataset: str, options: Mapping[str, Any]) -> Preset:
        """This dataset in place of the preset's, as the first of its worlds whose task can learn its kind of data.

        An attention radius, which a world of its own asks for, is left out. Raises ValueError where there is no such
        world, where no dataset is named, and for options that it does not have.
        """
        if not dataset:
            raise ValueError(f"name the dataset that these are options of, given {dict(options)}")
        kind = data.create(dataset, **options).spec.kind
        for world in self.worlds:
            if tasks.get(world.task).data_kind == kind:
                shape = {name: value for name, value in world.architecture.items() if name != "attention_radius"}
                return replace(
                    self, worlds=(replace(world, dataset=dataset, dataset_options=dict(options), architecture=shape),)
                )
        raise ValueError(
            f"preset {self.name!r} has no world for {kind} data such as {dataset!r}; write a preset of your own"
        )


def _addable(name: str, known: list[str]) -> str:
    """How to add a trainer that a preset of these does not have."""
    names = trainers.names()
    if name in names or ":" in name:
        return f"; add one with +{name}"
    if near := nearest(name, names):
        return "" if near in known else f"; did you mean +{near}, which adds one?"
    return f"; add one with +NAME, of {', '.join(other for other in names if other not in known)}"


def preset_names(study: str) -> list[str]:
    """The packaged presets of a study."""
    return list(tomllib.loads(_packaged(study)))


def described_presets(study: str) -> dict[str, str]:
    """The packaged presets of a study, each with what it says about itself."""
    tables = tomllib.loads(_packaged(study))
    return {name: str(_extended(name, tables, study).get("about", "")) for name in tables}


def load_preset(study: str, name_or_path: str) -> Preset:
    """A packaged preset by name, or the presets of a file: PATH (if it holds one) or PATH:NAME.

    `extends = "other"` starts from another preset of the same file. Raises ValueError for an unknown name, a file that
    is no TOML, or an unknown field.
    """
    return _preset(*load_table(study, name_or_path))


def load_table(study: str, name_or_path: str) -> tuple[str, dict[str, Any]]:
    """The name and the table of a preset as `load_preset` finds it, for a study whose presets say other things."""
    path, _, name = name_or_path.partition(":")
    if path.endswith(".toml"):
        tables = _tables(expanded(path))
        if not name and len(tables) != 1:
            raise ValueError(f"preset file {path} holds {sorted(tables)}; name one as {path}:NAME")
        name = name or next(iter(tables))
    else:
        name, tables = name_or_path, tomllib.loads(_packaged(study))
    return name, _extended(name, tables, study)


def _tables(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # with or without a byte order mark
    except UnicodeDecodeError:
        raise ValueError(f"preset file {path} is not UTF-8; save it so") from None
    except RecursionError:
        raise ValueError(f"preset file {path} is nested too deeply") from None
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"preset file {path}: {error}") from error


def preset_from_dict(values: Mapping[str, Any]) -> Preset:
    """The preset that `Preset.to_dict` wrote, as the provenance of results holds it."""
    return _preset(values.get("name", ""), dict(values))


def presets_of(commands: Iterable[Mapping[str, Any]]) -> list[Preset]:
    """The presets of the commands that a provenance.json lists, in their order; what cannot be read is left out."""
    found = []
    for values in (preset for entry in commands for preset in entry["presets"]):
        try:
            found.append(preset_from_dict(json.loads(json.dumps(values))))  # lists, as in the file
        except (ValueError, TypeError, KeyError, AttributeError):
            continue  # of another version, or of a study whose presets say other things
    return found


def _packaged(study: str) -> str:
    """The text of the study's packaged presets; empty for a study of a plug-in, whose presets are files."""
    file = resources.files("eltbench.presets") / f"{study}.toml"
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def _extended(name: str, tables: Mapping[str, Any], study: str, children: tuple[str, ...] = ()) -> dict[str, Any]:
    if name not in tables:
        raise ValueError(unknown(f"preset of {study}", name, list(tables)))
    if name in children:
        raise ValueError(f"presets extend one another in a circle: {' → '.join([*children, name])}")
    if not isinstance(tables[name], dict):
        raise ValueError(f"preset {name!r} must be a table, given {tables[name]!r}")
    table = dict(tables[name])
    parent = table.pop("extends", None)
    if not isinstance(parent, str | None):
        raise ValueError(f"preset {name!r}: extends must name another preset, given {parent!r}")
    return table if parent is None else _merged(_extended(parent, tables, study, (*children, name)), table)


def _merged(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Tables merge key by key, everything else is replaced."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _preset(name: str, table: dict[str, Any]) -> Preset:
    table = {"name": name, **table}
    for plural, cls in (("worlds", World), ("arms", Arm)):
        parts = table.get(plural, [])
        if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
            raise ValueError(f"preset {name!r}: {plural} must be a list of tables, given {parts!r}")
        table[plural] = tuple(build(cls, part) for part in parts)
    grid = table.get("grid", {})
    if not isinstance(grid, dict):
        raise ValueError(f"preset {name!r}: grid must be a table, given {grid!r}")
    table["grid"] = build(Grid, grid)
    seeds = table.get("seeds", list(Preset.seeds))
    if whole(seeds) and seeds > MOST_SEEDS:
        raise ValueError(f"preset {name!r}: give at most {MOST_SEEDS:,} seeds, given {seeds:,}")
    seeds = list(range(seeds)) if whole(seeds) else seeds
    if not isinstance(seeds, list) or not all(whole(seed) and seed >= 0 for seed in seeds):
        raise ValueError(f"preset {name!r}: seeds must be a number of seeds or a list of them, given {seeds!r}")
    table["seeds"] = tuple(dict.fromkeys(seeds))
    return build(Preset, table)
