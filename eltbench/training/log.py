"""What a training leaves of every step: its exits and loss terms, checked and written down."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from eltbench.backends.base import Engine
from eltbench.core import atomic


class DivergedError(ArithmeticError):
    """A loss or gradient that is no longer finite; `step` is where."""

    def __init__(self, step: int, name: str, value: float) -> None:
        super().__init__(f"{name} became {value} at step {step}; try a smaller learning_rate or gradient_clip")
        self.step = step


class Log:
    """Loss terms by step as JSON lines; values stay on the device until `flush`, so that no step waits for them.

    place: of the run among those whose terms come together. keeps: whether it writes; values are checked anyway.
    """

    def __init__(self, path: Path, start: int, place: int = 0, keeps: bool = True) -> None:
        self.path = path if keeps else Path(os.devnull)
        self.place = place
        self.pending: list[tuple[int, tuple[int, ...], dict[str, Any]]] = []
        if not keeps:
            return
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if atomic.is_file(path) else []
        kept = [line for line in lines if _step(line) < start]
        atomic.write_text(path, "".join(line + "\n" for line in kept))

    def add(self, step: int, exits: tuple[int, ...], terms: dict[str, Any]) -> None:
        self.pending.append((step, exits, terms))

    def flush(self, engine: Engine) -> None:
        """Write what is pending; the first value that is not finite raises DivergedError with its step."""
        with self.path.open("a") as file:
            for step, exits, terms in self.pending:
                values = {name: float(np.ravel(engine.numpy(term))[self.place]) for name, term in terms.items()}
                for name, value in values.items():
                    if not math.isfinite(value):
                        raise DivergedError(step, name, value)
                file.write(json.dumps({"step": step, "exits": exits, **values}) + "\n")
        self.pending.clear()


def _step(line: str) -> float:
    """The step of a line of the log; infinity, so that it is not kept, for one that is torn or no line of a log."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return math.inf
