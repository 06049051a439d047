"""Files that appear whole or not at all."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TEMPORARY = "*.tmp"  # the pattern of files that a killed writer leaves behind


class NotWritableError(ValueError):
    """A directory that results or runs cannot be written to."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path in the folder of `path`, moved over `path` at the end and removed after an exception."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` in UTF-8, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, indent: int) -> None:
    """Write a value as JSON that every reader takes, atomically: a number that is not finite stands as null."""
    write_text(path, json.dumps(_finite(value), indent=indent, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_writable(directory: Path) -> None:
    """Create `directory` if need be and try to write in it; raises NotWritableError with the reason."""
    try:
        with replacing(directory / "probe") as temporary:
            temporary.write_bytes(b"")
        (directory / "probe").unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise NotWritableError(f"cannot write to {directory}: {reason}; choose another directory") from None
