"""The files of a trained run, and done.json, which says what they are."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from eltbench.core import atomic

WEIGHTS = "checkpoint.safetensors"
CHECKPOINT = (WEIGHTS, "checkpoint.json")
KEPT = re.compile(r"checkpoint\.(safetensors|json)|snapshot-[1-9][0-9]{0,17}\.safetensors")  # that done.json may name


def read_record(path: Path) -> dict[str, Any]:
    """What a done.json says; raises ValueError with what is odd in one that `RunStore.finish` did not write."""
    if odd := atomic.not_own(path):
        raise ValueError(odd)
    try:
        record = atomic.read_json(path)
    except ValueError as error:
        raise ValueError(f"is unreadable: {error}") from None
    if not isinstance(record, dict):
        raise ValueError("is unreadable: it holds no object")
    for name, (sound, expected) in RECORD.items():
        if not sound(record.get(name)):
            raise ValueError(f"does not say {expected} as {name!r}")
    return record


def file_damage(directory: Path, record: Mapping[str, Any], names: Collection[str]) -> tuple[str, str] | None:
    """The first of these files of a run that does not match its record, and what is wrong with it."""
    for name in names:
        path = directory / name
        if odd := atomic.not_own(path):
            return name, odd
        if not path.exists():
            return name, "is gone"
        if file_digest(path) != record["checkpoint"].get(name):
            return name, "is not the file that was written"
    return None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_file(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == {"sha256", "bytes"}
        and isinstance(value["sha256"], str)
        and re.fullmatch("[0-9a-f]{64}", value["sha256"]) is not None
        and _is_count(value["bytes"])
    )


def _is_checkpoint(value: Any) -> bool:
    """Whether these are files of a run by name, none of them elsewhere, each as `file_digest` describes it."""
    return (
        isinstance(value, dict)
        and WEIGHTS in value
        and all(KEPT.fullmatch(name) and _is_file(file) for name, file in value.items())
    )


def _is_made(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(name), str) for name in ("time", "host"))


def _is_also_made(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(each, dict) for each in value))


RECORD: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "run_id": (lambda value: isinstance(value, str), "which run it is"),
    "steps": (_is_count, "how many steps were taken"),
    "seconds": (lambda value: _is_count(value) or (isinstance(value, float) and value >= 0), "how long it took"),
    "resumed": (lambda value: isinstance(value, bool), "whether training was resumed"),
    "checkpoint": (_is_checkpoint, "which files of its own there are, with size and checksum,"),
    "provenance": (_is_made, "when and where the run was made"),
    "also_made": (_is_also_made, "when and where else it was made"),  # of merged caches alone
}
"""What done.json holds: whether a value will do, and what it says."""


def file_digest(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": path.stat().st_size}
