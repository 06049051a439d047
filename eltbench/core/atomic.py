"""Files that appear whole or not at all, and JSON that is read whole or refused."""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

TEMPORARY = re.compile(r".+\.[0-9]+(-[0-9a-f]{8})?\.tmp")  # what a killed writer leaves behind
STALE = 600.0  # seconds after which no writer is still at a file; its process may be another machine's
LINK = "is a link, which is not followed"
DEEPEST = 64  # levels of lists and objects in JSON; the package's own has about ten


class NotWritableError(ValueError):
    """A directory that results or runs cannot be written to."""


def expanded(path: str | Path) -> Path:
    """The path with ~ expanded, the one place that does so; ValueError for an unknown home."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path}: {error}; give the path without ~") from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path in the folder of `path`, moved over `path` at the end and removed after an exception."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(path) as temporary:
        yield temporary
        os.replace(temporary, path)


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` in UTF-8, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def bring(path: Path, to: Path) -> None:
    """Copy a file, whole and with its time, unless it is that one."""
    if path.resolve() != to.resolve():
        with replacing(to) as temporary:
            shutil.copyfile(path, temporary)
            about = path.stat()
            os.utime(temporary, ns=(about.st_atime_ns, about.st_mtime_ns))


def write_json(path: Path, value: Any, indent: int) -> None:
    """Write a value as JSON that every reader takes, atomically: a number that is not finite stands as null."""
    write_text(path, json.dumps(_nulled(value), indent=indent, allow_nan=False) + "\n")


def _nulled(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _nulled(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_nulled(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_writable(directory: Path) -> None:
    """Create `directory` if need be, try to write in it, and clear what killed writers left there.

    Raises NotWritableError with the reason.
    """
    probe = directory / "probe"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with _temporary(probe) as temporary:
            temporary.write_bytes(b"")
        clear(directory, older_than=STALE)
    except OSError as error:
        reason = error.strerror or str(error)
        raise NotWritableError(f"cannot write to {directory}: {reason}; choose another directory") from None


def clear(directory: Path, older_than: float = 0.0) -> None:
    """Remove the temporary files that killed writers left in a folder; older_than: seconds since they were written."""
    newest = time.time() - older_than
    with os.scandir(directory) as entries:
        for entry in entries:
            if TEMPORARY.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                with suppress(FileNotFoundError, PermissionError):  # gone meanwhile, or another user's
                    if entry.stat(follow_symlinks=False).st_mtime <= newest:
                        os.unlink(entry.path)


def not_own(path: Path) -> str:
    """Why a path is not a regular file of its folder (a link, a device); empty if it is one or nothing is there."""
    if path.is_symlink():
        return LINK
    return "is no regular file" if path.exists() and not path.is_file() else ""


def is_file(path: Path) -> bool:
    """Whether a path is a file and not a link to one."""
    return path.is_file() and not path.is_symlink()


def read_json(path: Path) -> Any:
    """The value in a JSON file, read strictly.

    Raises ValueError for anything but a regular file, for text that is not UTF-8 or not JSON, for deep nesting and for
    numbers that are not finite; OSError where the system cannot read the file.
    """
    if path.exists() and not path.is_file():
        raise ValueError("no regular file")
    try:
        value = json.loads(path.read_bytes().decode("utf-8"), parse_constant=_not_finite, parse_float=_finite)
    except RecursionError:
        raise ValueError(f"nested deeper than {DEEPEST} levels") from None
    if _nested(value, DEEPEST):
        raise ValueError(f"nested deeper than {DEEPEST} levels")
    return value


def _nested(value: Any, levels: int) -> bool:
    """Whether a JSON value holds more levels than these."""
    if not isinstance(value, dict | list):
        return False
    return not levels or any(
        _nested(each, levels - 1) for each in (value.values() if isinstance(value, dict) else value)
    )


def _not_finite(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        _not_finite(text)
    return value
