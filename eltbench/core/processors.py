"""How many processors this process may use: those it may run on, or as many as its control groups give it time for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from eltbench.core.control_groups import GROUPS, TREE, folders


def processors(groups: Path = GROUPS, tree: Path = TREE) -> int:
    """At least one; more threads than these would wait for each other."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([there, *_allowed(groups, tree)]))


def _allowed(groups: Path, tree: Path) -> Iterator[int]:
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
