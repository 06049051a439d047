"""Presets of the throughput study: groups of cells, how often each is repeated, and what counts as noise."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from eltbench.core.durations import duration
from eltbench.core.validation import build, check_name
from eltbench.evaluation.speed.ceilings import SETS
from eltbench.studies.throughput.cells import FEWEST_ROUNDS, Cell, Measure


@dataclass(frozen=True)
class Group:
    """Cells of one kind: every pair N×L at every width, token count, batch, precision and mode named."""

    measure: Measure
    pairs: tuple[tuple[int, int], ...]
    widths: tuple[int, ...]
    tokens: tuple[int, ...] = (16,)
    batches: tuple[int, ...] = (1,)
    precisions: tuple[Literal["fp32", "bf16"], ...] = ("fp32",)
    modes: tuple[str, ...] = ("eager",)
    block: Literal["bert", "dit"] = "bert"
    heads: int = 0  # 0: one for every 64 channels
    sampling_steps: int = 0
    guidance_scale: float = 1.0
    rounds: int = FEWEST_ROUNDS
    scale: str = ""
    assumed: str = ""

    def cells(self) -> list[Cell]:
        """Each cell once."""
        names = ("sampling_steps", "guidance_scale", "rounds", "scale", "assumed")
        alike = {name: getattr(self, name) for name in names}
        lists = (self.widths, self.pairs, self.tokens, self.batches, self.precisions, self.modes)
        every: Iterator[tuple[Any, ...]] = itertools.product(*lists)
        return [
            Cell(self.measure, layers, loops, width, self.heads or max(1, width // 64), self.block, *rest, **alike)
            for width, (layers, loops), *rest in every
        ]


@dataclass(frozen=True)
class Preset:
    """A device, how often everything is repeated, and the groups of cells."""

    name: str
    groups: tuple[Group, ...]
    about: str = ""
    smoke: bool = False  # its claims always read inconclusive
    device: str = "cpu"
    threads: int = 1
    processes: int = 5  # fresh ones a cell: the replicates of every interval
    calls: int = 10  # of a burst, at least
    burst_seconds: float = 0.05
    spread: float = 0.1  # quartile distance over median above which a process is noisy, and repeated
    repeats: int = 3  # of a noisy process, at the most
    patience: float = 480.0  # seconds after which nothing is repeated any more, only marked
    ceiling_seconds: float = 0.02  # of each number of the roofline, three times
    largest_set: int = 0  # bytes that are read at most for the roofline; 0: eight times the last cache
    limit_seconds: float = 120.0  # of one process; what takes longer is ended, and skipped with that reason

    def __post_init__(self) -> None:
        check_name("preset", self.name)
        for name, least in (("threads", 1), ("processes", 1), ("calls", 10), ("repeats", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"preset {self.name!r}: {name} must be at least {least}, given {getattr(self, name)}")
        for name in ("spread", "limit_seconds", "patience", "burst_seconds", "ceiling_seconds", "largest_set"):
            given, positive = getattr(self, name), name in ("spread", "limit_seconds", "patience")
            if not 0 <= given < math.inf or (positive and not given):
                bound = "above 0" if positive else "not below 0"
                raise ValueError(f"preset {self.name!r}: {name} must be finite and {bound}, given {given}")
        if not self.device.startswith("cuda") and any(cell.mode == "cuda-graph" for cell in self.cells):
            raise ValueError(f"preset {self.name!r}: mode 'cuda-graph' needs a CUDA device, given {self.device!r}")
        if not self.cells:
            raise ValueError(f"preset {self.name!r} has no cells: give it groups")
        if twice := len(self.cells) - len({cell.id for cell in self.cells}):
            raise ValueError(f"preset {self.name!r} names {twice} cells twice; name each once")

    @property
    def cells(self) -> list[Cell]:
        return [cell for group in self.groups for cell in group.cells()]

    def listing(self) -> list[str]:
        """What a dry run says: every cell with its time, and the time of all."""
        return [
            *(f"{cell.id}  about {duration(self._seconds(cell))}  {cell.name}" for cell in self.cells),
            f"{len(self.cells)} cells in {self.processes} processes each, about {duration(self.seconds)} in all on an "
            "idle machine, more where noisy processes are repeated",
        ]

    def _seconds(self, cell: Cell) -> float:
        return cell.seconds(self.processes, self.device, self.burst_seconds)

    @property
    def seconds(self) -> float:
        """About how long the preset takes."""
        shapes = {(cell.precision, shape) for cell in self.cells for shape in cell.shapes}
        ceilings = 3 * (self.processes + 1) + 4 * self.ceiling_seconds * ((1 + len(SETS)) * len(shapes) + 50)
        return ceilings + sum(map(self._seconds, self.cells))


def preset_from_table(name: str, table: Mapping[str, Any]) -> Preset:
    """A preset from its TOML table; raises ValueError for what it does not know."""
    groups = table.get("groups", [])
    if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
        raise ValueError(f"preset {name!r}: groups must be a list of tables, given {groups!r}")
    return build(Preset, {"name": name, **table, "groups": tuple(build(Group, group) for group in groups)})
