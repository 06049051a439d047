"""Dataclasses from the input of users: every name and type is checked, messages say what was given and expected."""

from __future__ import annotations

import contextlib
import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import cache
from numbers import Integral
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
LONGEST_NAME = 64


def build(cls: type[T], values: Mapping[str, Any], what: str | None = None) -> T:
    """A dataclass from plain values (of TOML, JSON or a call); lists stand for tuples, 1 for 1.0 in a float field.

    what: how messages name it, by default its class. Raises ValueError for an unknown field, with the near miss, for a
    missing one, for a value of another type and for numbers that are none (see `check_numbers`).
    """
    from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

    what = what or cls.__name__.lower()
    known = {field.name: field for field in fields(cls) if field.init}  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            raise ValueError(unknown(f"{what} field", name, list(known)))
    for name, field in known.items():
        if name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{what}: {name} is missing, given {', '.join(values) or 'nothing'}")
    hints = get_type_hints(cls)
    checked = {}
    for name, value in values.items():
        checked[name] = value = declared(hints[name], frozen(value))
        try:
            check_type(value, hints[name], collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS)
        except TypeCheckError as error:
            raise ValueError(f"{what}: {name} is given as {values[name]!r}: {error}") from None
    made = cls(**checked)
    check_numbers(cls, checked, what)  # after what the class itself says of them
    return made


def check_numbers(cls: type, values: Mapping[str, Any], what: str) -> None:
    """Refuse (ValueError) what Python's types let pass in a dataclass: true for a number, and a float that is none.

    values: those of its fields, by name.
    """
    for name, value in values.items():
        allowed = _kinds(cls)[name]
        if Any in allowed or not allowed & {int, float}:
            continue
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, bool) and bool not in allowed:
                raise ValueError(f"{what}: {name} must be a number, given {value!r}")
            if isinstance(each, float) and not math.isfinite(each):
                raise ValueError(f"{what}: {name} must be finite, given {value!r}")


def require(sound: bool, message: str) -> None:
    """Raise ValueError with the message unless `sound`."""
    if not sound:
        raise ValueError(message)


def whole(value: Any) -> bool:
    """Whether a value is a whole number by its type; true and false are not, though Python counts them as integers."""
    return isinstance(value, Integral) and not isinstance(value, bool)


@cache
def _kinds(cls: type) -> dict[str, set[Any]]:
    """The types that each field of a dataclass may have, its own or those within a tuple or a union."""

    def kinds(hint: Any) -> set[Any]:
        return {hint}.union(*map(kinds, get_args(hint)))

    return {name: kinds(hint) for name, hint in get_type_hints(cls).items()}


def declared(hint: Any, value: Any) -> Any:
    """The value with whole numbers as floats wherever its type hint takes floats and no integers, at every level."""
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if type(value) is int and float in options and int not in options:
        with contextlib.suppress(OverflowError):
            return float(value)
    for option in options:
        if isinstance(value, tuple) and get_origin(option) is tuple:
            hints = get_args(option)
            hints = hints[:1] * len(value) if hints[-1:] == (...,) else hints
            if len(hints) == len(value):
                return tuple(map(declared, hints, value))
    return value


def check_name(kind: str, name: str) -> None:
    """Raise ValueError for a name that could not be that of a plain folder: what it names is published under it."""
    if not re.fullmatch(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{LONGEST_NAME - 1}}}", name):
        raise ValueError(
            f"{kind}: a name begins with a letter or digit and holds letters, digits, '-', '_' and '.', at most "
            f"{LONGEST_NAME} in all, given {name[: LONGEST_NAME + 1]!r}"
        )


def unknown(kind: str, name: str, known: list[str]) -> str:
    """The message for a name that is not among `known`, with the near miss where there is one."""
    near = nearest(name, known)
    hint = f"; did you mean {near!r}?" if near else ";"
    return f"unknown {kind} {name!r}{hint} known: {', '.join(known) or 'none'}"


def nearest(name: str, known: list[str]) -> str | None:
    """The name among `known` that a misspelt one may stand for, None where none is near."""
    near = difflib.get_close_matches(name, known, n=1)
    if not near:  # transposed letters in a short name fall below difflib's default cut-off
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return near[0] if near else None


def printable(text: str) -> str:
    """Text that came from a file as a terminal may show it: what controls a terminal is written out (\\x1b)."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def frozen(value: Any) -> Any:
    """The value with lists as tuples, at every level."""
    return tuple(frozen(item) for item in value) if isinstance(value, list) else value
