"""What stands beside published rows, read with plain words for what is odd; the lock under which it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from filelock import FileLock

from eltbench.core import atomic


def lock(folder: Path) -> FileLock:
    """The lock under which commands take turns to publish in a folder, wherever they keep their temporary files."""
    return FileLock(folder / ".lock")


def read_commands(path: Path) -> list[dict[str, Any]]:
    """The commands that a provenance.json names, each with its presets and runs; ValueError for anything else."""
    found = read_json(path)
    commands = found.get("commands") if isinstance(found, dict) else None
    if not isinstance(commands, list) or not all(map(_is_command, commands)):
        raise ValueError(f"{path} cannot be read: it holds no list of commands")
    return commands


def _is_command(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(runs := entry.get("runs"), dict):
        return False
    presets = entry.setdefault("presets", [])
    listed = isinstance(presets, list) and all(isinstance(preset, dict) for preset in presets)
    return listed and all(isinstance(runs.setdefault(name, []), list) for name in ("done", "cached"))


def read_json(path: Path) -> Any:
    """The content of a JSON file; raises ValueError, with its path, for what cannot be read."""
    try:
        return atomic.read_json(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
