"""Command lines read as dataclasses, and the options of a run's parts that stand in them as text."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

import tyro

from eltbench.core.atomic import expanded
from eltbench.core.config import OPTIONS
from eltbench.core.validation import unknown

T = TypeVar("T")


def read(command: type[T], prog: str, arguments: Sequence[str] | None, description: str | None = None) -> T:
    """The options as given, with ~ expanded in every path (a shell leaves --runs=~/x as it is).

    Raises ValueError for an unknown home.
    """
    asked: Any = tyro.cli(command, prog=prog, args=arguments, description=description)
    found: T = replace(asked, **{each.name: _expanded(getattr(asked, each.name)) for each in fields(asked)})
    return found


def _expanded(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_expanded, value))
    return expanded(value) if isinstance(value, Path) else value


def options(given: Sequence[str]) -> dict[str, Any]:
    """The options of a run from texts such as trainer.decay=cosine; values are read as in TOML, else as plain text.

    Raises ValueError for another form, for what is neither trainer, task nor dataset, and for a name given twice.
    """
    read: dict[str, Any] = {name: {} for name in OPTIONS}
    for text in given:
        place, equals, value = text.partition("=")
        what, dot, name = place.partition(".")
        if not (what and dot and name and equals):
            raise ValueError(f"--option: give for example trainer.decay=cosine, given {text!r}")
        if (of := read.get(f"{what}_options")) is None:
            raise ValueError(f"--option: {unknown('part of a run', what, [each.split('_')[0] for each in OPTIONS])}")
        if name in of:
            raise ValueError(f"--option: {place} is given twice")
        try:
            of[name] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            of[name] = value
    return read
