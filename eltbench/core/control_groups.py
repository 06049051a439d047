"""Where Linux keeps what the control groups of this process allow it, in both versions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

GROUPS, TREE = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


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
