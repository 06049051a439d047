"""How much main memory there is for this process: what the machine has, and what its control groups allow."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from eltbench.core.control_groups import GROUPS, TREE, folders

MACHINE = Path("/proc/meminfo")
FILES = {  # of limit and use, and the key of memory.stat for what can be given back
    "v2": ("memory.max", "memory.current", "inactive_file"),
    "v1": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def memory(machine: Path = MACHINE, groups: Path = GROUPS, tree: Path = TREE) -> dict[str, int]:
    """Bytes of main memory, `total` and `available`, of the machine or of a control group (v1, v2) that allows less.

    Without Linux' account what there is counts as available.
    """
    found = [_machine(machine), *_groups(groups, tree)]
    return {name: min(each[name] for each in found) for name in ("total", "available")}


def _machine(path: Path) -> dict[str, int]:
    try:
        lines = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
        names = {"total": "MemTotal", "available": "MemAvailable"}
        return {name: 1024 * int(lines[key].split()[0]) for name, key in names.items()}
    except (OSError, KeyError, ValueError):
        known = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return {"total": known, "available": known}


def _groups(groups: Path, tree: Path) -> Iterator[dict[str, int]]:
    """Limit and free bytes of every group that has a limit."""
    for version, folder in folders("memory", groups, tree):
        limit, use, idle = FILES[version]
        try:
            most, used = int((folder / limit).read_text()), int((folder / use).read_text())
        except (OSError, ValueError):  # not here, or "max": no limit
            continue
        yield {"total": most, "available": max(0, most - used + _idle(folder / "memory.stat", idle))}


def _idle(stat: Path, key: str) -> int:
    """Bytes of files in memory that the kernel gives back when asked for more."""
    try:
        return next(int(line.split()[1]) for line in stat.read_text().splitlines() if line.split()[:1] == [key])
    except (OSError, StopIteration, IndexError, ValueError):
        return 0
