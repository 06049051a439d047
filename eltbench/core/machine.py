"""What of this machine a process may use: processors and main memory, as its control groups (Linux) allow them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

GROUPS, TREE = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
MACHINE = Path("/proc/meminfo")
FILES = {  # of limit and use, and the key of memory.stat for what can be given back
    "v2": ("memory.max", "memory.current", "inactive_file"),
    "v1": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def processors(groups: Path = GROUPS, tree: Path = TREE) -> int:
    """How many this process may run on, at least one; more threads than these would wait for each other."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([there, *_processor_limits(groups, tree)]))


def _processor_limits(groups: Path, tree: Path) -> Iterator[int]:
    for version, folder in folders("cpu", groups, tree):
        try:
            if version == "v2":
                quota, period = (folder / "cpu.max").read_text().split()
            else:
                quota, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
            if int(quota) > 0:  # -1: no limit
                yield int(quota) // int(period)
        except (OSError, ValueError, ZeroDivisionError):  # not here, or "max": no limit
            continue


def memory(machine: Path = MACHINE, groups: Path = GROUPS, tree: Path = TREE) -> dict[str, int]:
    """Bytes of main memory, `total` and `available`, of the machine or of a control group (v1, v2) that allows less.

    Without Linux' account what there is counts as available.
    """
    found = [_of_machine(machine), *_of_groups(groups, tree)]
    return {name: min(each[name] for each in found) for name in ("total", "available")}


def _of_machine(path: Path) -> dict[str, int]:
    try:
        lines = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
        names = {"total": "MemTotal", "available": "MemAvailable"}
        return {name: 1024 * int(lines[key].split()[0]) for name, key in names.items()}
    except (OSError, KeyError, ValueError):
        known = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return {"total": known, "available": known}


def _of_groups(groups: Path, tree: Path) -> Iterator[dict[str, int]]:
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


def folders(controller: str, groups: Path = GROUPS, tree: Path = TREE) -> Iterator[tuple[Literal["v1", "v2"], Path]]:
    """Version and folder of this process's group of a controller (memory, cpu), then of every group around it.

    Inside a container the group's place is often that of the host; then only the root of the tree is there. Nothing
    where the system has no groups; a folder need not exist.
    """
    try:
        lines = [line.split(":", 2) for line in groups.read_text().splitlines() if line.count(":") >= 2]
    except OSError:
        return
    for _, controllers, place in lines:
        if controllers and controller not in controllers.split(","):
            continue
        top = tree / controller if controllers else tree
        own = top / place.lstrip("/")
        for folder in [own, *own.parents][: len(own.relative_to(top).parts) + 1]:
            yield ("v1" if controllers else "v2"), folder
