"""Benchmark and analysis of looped depth: Elastic Looped Transformers (arXiv 2604.09168) and their baselines.

Importing this package loads neither torch nor jax; `load_rows` and `load_model` bring in what they need when asked for.
"""

from __future__ import annotations

import sys

if sys.argv[:1] == ["-m"]:  # python -m eltbench…: it puts the current folder first, where a stray tyro.py would be run
    if not sys.flags.safe_path:
        del sys.path[0]
    sys.path.append("")

from importlib import import_module
from typing import TYPE_CHECKING, Any

from eltbench import data, tasks, trainers
from eltbench.core.config import Architecture, Optimisation, Run

if TYPE_CHECKING:
    from eltbench.evidence.results import load_rows
    from eltbench.training.model import load_model

__version__ = "0.1.0"

__all__ = ["Architecture", "Optimisation", "Run", "data", "load_model", "load_rows", "tasks", "trainers"]

_LAZY = {"load_model": "eltbench.training.model", "load_rows": "eltbench.evidence.results"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'eltbench' has no attribute {name!r}; public names: {', '.join(__all__)}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
