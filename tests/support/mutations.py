"""How good files are made bad: bytes, plain structures as JSON and TOML have them, and their odd values."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from random import Random
from typing import Any

from judging import TRAPS

GONE = object()
"""In the place of a value: its key is removed."""

ODD: list[Any] = [
    *(GONE, None, True, False, 0, -1, 1.5, -0.0, 1e308, math.nan, math.inf, -math.inf, 2**31, 2**63, 2**64, 10**30),
    *(
        "",
        " ",
        ".",
        "..",
        "/",
        "../../canary",
        "/canary",
        "~",
        "~nobody/x",
        "a" * 300,
        "\x1b[2J\x1b]0;x\x07",
        "\u202e",
        "NaN",
    ),
    *("💥", "\ud83d", "%s{0}", *TRAPS),
    *([], {}, [[]], [None], [1, "a"], {"a": {"b": []}}),
]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every part of a structure is."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield from places(part, (*path, key))


def edited(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy with another value at one place, or without it (GONE)."""
    made = copy.deepcopy(value)
    inner = made
    for key in path[:-1]:
        inner = inner.setdefault(key, {}) if isinstance(inner, dict) else inner[key]
    if new is GONE:
        del inner[path[-1]]
    else:
        inner[path[-1]] = copy.deepcopy(new)
    return made


def shaken(value: Any, random: Random) -> Any:
    """A copy with one to three odd values at random places."""
    for _ in range(random.choice((1, 1, 2, 3))):
        if found := list(places(value)):
            value = edited(value, random.choice(found), random.choice(ODD))
    return value


def damaged(content: bytes, random: Random) -> bytes:
    """Bytes cut, flipped, doubled, replaced or in another encoding."""
    kind = random.choice(("cut", "flip", "flip", "insert", "double", "zero", "encoding", "empty"))
    place = random.randrange(len(content) or 1)
    match kind:
        case "cut":
            return content[:place]
        case "flip":
            return content[:place] + bytes([content[place] ^ (1 << random.randrange(8))]) + content[place + 1 :]
        case "insert":
            return content[:place] + random.randbytes(random.choice((1, 8, 100))) + content[place:]
        case "double":
            return content + content
        case "zero":
            return content[:place] + bytes(len(content) - place)
        case "encoding":
            text = content.decode("latin-1")
            return random.choice((b"\xef\xbb\xbf" + content, text.encode("utf-16"), b"\xff\xfe" + content))
    return b""


def nested(depth: int) -> tuple[str, str]:
    """A list in a list in a list, in JSON and in TOML."""
    return "[" * depth + "]" * depth, "x = " + "[" * depth + "]" * depth


def as_json(value: Any) -> bytes:
    """As Python writes it: NaN and Infinity too."""
    return json.dumps(value).encode("utf-8", "surrogatepass")


def as_toml(tables: dict[str, Any]) -> bytes:
    """Tables as TOML; what TOML has no word for is left out."""
    lines = []
    for name, table in tables.items():
        if isinstance(table, dict):
            lines += [f"[{json.dumps(name)}]"]
            lines += [f"{json.dumps(key)} = {_toml(part)}" for key, part in table.items() if part is not None]
        else:
            lines.insert(0, f"{json.dumps(name)} = {_toml(table)}")
    return "\n".join(lines).encode("utf-8", "replace")


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, dict):
        return (
            "{ "
            + ", ".join(f"{json.dumps(key)} = {_toml(part)}" for key, part in value.items() if part is not None)
            + " }"
        )
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(part) for part in value if part is not None) + "]"
    return (
        json.dumps(value, ensure_ascii=False) if isinstance(value, str) and "\x1b" not in value else json.dumps(value)
    )
