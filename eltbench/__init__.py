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
    from eltbench.cli.study_result import run_study
    from eltbench.core.config import Architecture, Optimisation, Run
    from eltbench.evidence.results import load_rows
    from eltbench.execution.train import train
    from eltbench.studies import plot
    from eltbench.training.model import load_model

__version__ = "0.1.0"

__all__ = [
    "Architecture",
    "Optimisation",
    "Run",
    "data",
    "load_model",
    "load_rows",
    "plot",
    "run_study",
    "tasks",
    "train",
    "trainers",
]

_MODULES = {"data": "data", "plot": "studies.plot", "tasks": "tasks", "trainers": "trainers"}
_HOMES = {
    **dict.fromkeys(("Architecture", "Optimisation", "Run"), "core.config"),
    "load_model": "training.model",
    "load_rows": "evidence.results",
    "run_study": "cli.study_result",
    "train": "execution.train",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'eltbench' has no attribute {name!r}; public names: {', '.join(__all__)}")
    if name in _MODULES:
        return import_module(f"eltbench.{_MODULES[name]}")
    return getattr(import_module(f"eltbench.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
