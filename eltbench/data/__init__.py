"""Datasets: NumPy in, NumPy out, the same batches for every backend."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eltbench.core.registry import Registry, lazy

if TYPE_CHECKING:
    from eltbench.data.base import Clean, Dataset, DataSpec

registry: Registry[Dataset] = Registry(
    "dataset",
    "datasets",
    {
        "digits": "eltbench.data.digits:Digits",
        "digits-codes": "eltbench.data.digits:DigitsCodes",
        "digits-levels": "eltbench.data.digits:DigitsLevels",
        "group": "eltbench.data.group:Group",
        "latin": "eltbench.data.latin:Latin",
        "maze": "eltbench.data.maze:Maze",
        "maze-file": "eltbench.data.puzzle_files:MazeFile",
        "relay": "eltbench.data.relay:Relay",
        "sudoku": "eltbench.data.sudoku:Sudoku",
        "sudoku-file": "eltbench.data.puzzle_files:SudokuFile",
    },
    base="eltbench.data.base:Dataset",
)
__getattr__ = lazy(__name__, "base", "Clean", "DataSpec", "Dataset")
register, get, create, names = registry.register, registry.get, registry.create, registry.names

__all__ = ["Clean", "DataSpec", "Dataset", "create", "get", "names", "register", "registry"]
