"""GPUs of this machine, one process each: whoever takes one holds its lock, which the kernel frees when it dies."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

VISIBLE = "CUDA_VISIBLE_DEVICES"
PATIENCE = 1.0  # seconds between two looks for a GPU that has come free


def visible() -> list[str]:
    """What CUDA_VISIBLE_DEVICES names, else the indices of the GPUs that nvidia-smi lists."""
    said = os.environ.get(VISIBLE)
    if said is not None:
        return [name for name in (part.strip() for part in said.split(",")) if name not in ("", "-1")]
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(index) for index, _ in enumerate(line for line in listed.stdout.splitlines() if line[:4] == "GPU ")]


@contextmanager
def claimed(count: int) -> Iterator[dict[str, str]]:
    """The environment of a process that sees `count` GPUs which no other claimant sees; waits until they are free.

    Claims hold among all processes of this user on this machine. Raises ValueError where there are fewer GPUs.
    """
    names = visible()
    if count > len(names):
        raise ValueError(f"{count} GPUs are asked for, and {os.uname().nodename} has {len(names)} ({VISIBLE} counts)")
    while True:
        with ExitStack() as held:
            mine: list[str] = []
            for name in names:
                if len(mine) < count:
                    with suppress(Timeout):
                        held.enter_context(_lock(name).acquire(timeout=0))
                        mine.append(name)
            if len(mine) == count:
                yield {VISIBLE: ",".join(mine)}
                return
        time.sleep(PATIENCE)  # holding none meanwhile, so that no two claimants wait for each other


def _lock(name: str) -> FileLock:
    return FileLock(Path(tempfile.gettempdir()) / f"eltbench-{os.getuid()}-gpu-{name.replace('/', '_')}.lock")
