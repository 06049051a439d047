"""Benchmark and analysis of looped depth: Elastic Looped Transformers (arXiv 2604.09168) and their baselines.

Importing this package loads no library; each public name loads what it needs when it is first used.
"""

from __future__ import annotations

import sys

if sys.argv[:1] == ["-m"]:  # python -m eltbench…: it puts the current folder first, where a stray tyro.py would be run
    if not sys.flags.safe_path:
        del sys.path[0]
    sys.path.append("")

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eltbench import data, tasks, trainers
    from eltbench.core.config import Architecture, Optimisation, Run
    from eltbench.evidence.results import load_rows
    from eltbench.training.model import load_model

__version__ = "0.1.0"

__all__ = ["Architecture", "Optimisation", "Run", "data", "load_model", "load_rows", "tasks", "trainers"]

_HOMES = {
    **dict.fromkeys(("Architecture", "Optimisation", "Run"), "core.config"),
    "load_model": "training.model",
    "load_rows": "evidence.results",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'eltbench' has no attribute {name!r}; public names: {', '.join(__all__)}")
    home = import_module(f"eltbench.{_HOMES.get(name, name)}")
    return getattr(home, name) if name in _HOMES else home


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
