"""Where a number comes from: versions, commit, machine, time and command."""

from __future__ import annotations

import functools
import itertools
import os
import platform
import shlex
import socket
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

BACKEND_LIBRARIES = {"torch": ("torch",), "jax": ("jax", "jaxlib", "equinox", "optax")}
ANOTHER_REPOSITORY = (  # variables by which git looks elsewhere than in the folder where it is asked
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_COMMON_DIR",
    "GIT_OBJECT_DIRECTORY",
    "GIT_NAMESPACE",
)
LIBRARIES = ("numpy", "scipy", "pandas", "pyarrow", "scikit-learn", "torchvision", "torch-fidelity", "safetensors")


def provenance() -> dict[str, Any]:
    """Everything known about this process: package, commit, libraries, host, cpu, python, time (UTC) and command."""
    known = (*LIBRARIES, *(name for names in BACKEND_LIBRARIES.values() for name in names))
    return {
        "package_version": _version("eltbench") or "unknown",
        **_commit(),
        "libraries": {name: found for name in known if (found := _version(name))},
        "host": socket.gethostname(),
        "cpu": processor(),
        "cpu_count": os.cpu_count(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command(sys.orig_argv),
    }


def command(arguments: Sequence[str]) -> str:
    """A command line to repeat: without the interpreter's folder and that of the run cache, which measure nothing."""
    pairs = [pair for pair in itertools.pairwise(arguments) if "--runs" not in pair]
    words = [word for _, word in pairs if not word.startswith("--runs=")]
    return shlex.join([Path(arguments[0]).name, *words])


def row_provenance(backend: str) -> dict[str, Any]:
    """The part of `provenance` that every row carries, with the library versions of its backend alone."""
    names = BACKEND_LIBRARIES.get(backend, (backend,))
    return {
        "package_version": _version("eltbench") or "unknown",
        **_commit(),
        "libraries": " ".join(f"{name}=={_version(name)}" for name in names if _version(name)),
        "host": socket.gethostname(),
        "time": datetime.now(UTC),
    }


@functools.cache
def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@functools.cache
def _commit() -> dict[str, Any]:
    """Commit of the repository that tracks this package, and whether the package differs from it."""
    package = Path(__file__).resolve().parents[1]
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return {"git_commit": None, "git_dirty": None}  # no repository, or an installed copy inside someone else's
    changes = _git(package, "status", "--porcelain", "--", ".")
    return {"git_commit": _git(package, "rev-parse", "HEAD"), "git_dirty": None if changes is None else bool(changes)}


def _git(directory: Path, *arguments: str) -> str | None:
    environment = {name: value for name, value in os.environ.items() if name not in ANOTHER_REPOSITORY}
    try:
        command = ("git", "--no-optional-locks", *arguments)  # looking must not get in the way of someone's commit
        done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@functools.cache
def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
