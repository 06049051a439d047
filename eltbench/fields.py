"""What users write, as dataclasses: every name and every type is checked, with what was given and expected."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar, get_type_hints

T = TypeVar("T")
LONGEST_NAME = 64


def build(cls: type[T], values: Mapping[str, Any], what: str | None = None) -> T:
    """A dataclass from plain values (of TOML, JSON or a call); lists stand for tuples.

    what: how messages name it, by default its class. Raises ValueError for an unknown field, with the near miss, for a
    missing one and for a value of another type.
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
        checked[name] = value = frozen(value)
        try:
            check_type(value, hints[name], collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS)
        except TypeCheckError as error:
            raise ValueError(f"{what}: {name} is given as {values[name]!r}: {error}") from None
    return cls(**checked)


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


def frozen(value: Any) -> Any:
    """The value with lists as tuples, at every level."""
    return tuple(frozen(item) for item in value) if isinstance(value, list) else value
