"""Command lines read as dataclasses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

import tyro

from eltbench.core.atomic import expanded

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
