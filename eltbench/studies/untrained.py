"""Studies that train nothing: they measure this machine, or read tables, and make all their rows in one go."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import pandas as pd
import pyarrow as pa
import tyro
from rich.console import RenderableType

from eltbench import backends
from eltbench.core.config import Run
from eltbench.core.provenance import row_provenance
from eltbench.evidence.claims import Claim
from eltbench.evidence.schema import row_schema, validate
from eltbench.studies.base import Measured, Study
from eltbench.studies.presets import Arm, Preset, World
from eltbench.training.job import Job, measurement_hash
from eltbench.training.model import Model


@dataclass(frozen=True)
class Output:
    """What the command of any study prints at its end."""

    verbose: Annotated[bool, tyro.conf.arg(aliases=("-v",))] = False
    """also the wide tables: every condition with its region, and its second witness"""
    json: bool = False
    """end with one line of JSON on a terminal too, as elsewhere"""


@dataclass(frozen=True)
class Made:
    """Rows with metric, value and the study's key columns, raw tables beside them, and how each part went.

    runs: what provenance says of the parts. failures: one line for each that failed, by which the command fails.
    """

    rows: Sequence[Mapping[str, Any]]
    tables: Mapping[str, pa.Table] = field(default_factory=dict)
    runs: Mapping[str, Any] = field(default_factory=lambda: {"done": [], "cached": [], "failed": {}})
    failures: Sequence[str] = ()


@dataclass(frozen=True)
class Prepared:
    """What a command line asks for, checked; `make` does it and raises UnmeasuredError where it cannot.

    folder: below that of the study, empty where there is one preset alone. presets: as provenance tells them. listing:
    the lines of a dry run, None where none is asked for. replaces: whether earlier rows are replaced without a word.
    """

    name: str
    folder: str
    make: Callable[[], Made]
    presets: Sequence[Mapping[str, Any]] = ()
    smoke: bool = False
    listing: Sequence[str] | None = None
    replaces: bool = True


class UnmeasuredError(RuntimeError):
    """Nothing at all could be measured; the message says why."""


class Untrained(Study):
    """A study without runs: it plans none, and nothing that it measures has to have learned."""

    claims: ClassVar[tuple[Claim, ...]] = ()
    trained: ClassVar[bool] = False
    library: ClassVar[str]  # or backend, whose versions are stamped on rows that name no backend
    options: ClassVar[type[Output]]  # of its command line, with a field `results`; its docstring is the help

    @abstractmethod
    def prepared(self, options: Any) -> Prepared:
        """Check the options; raises ValueError for what cannot be."""

    @abstractmethod
    def tables(self, rows: pd.DataFrame) -> list[RenderableType]:
        """What the command prints above the claims where more is asked for, or where there are none."""

    def said(self, rows: pd.DataFrame) -> dict[str, Any]:
        """What the command's last line of JSON says beside the claims."""
        return {}

    def stamped(self, preset: str, rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
        """Rows completed with study, preset, versions and time, in the form of `schema`; ValueError otherwise."""
        form = self.schema()
        known = {
            **dict.fromkeys(form.names),
            "study": self.name,
            "preset": preset,
            "measurement": measurement_hash(self.name, self.version, {}),
        }
        made_by = {name: row_provenance(name) for name in backends.names()}
        plain = row_provenance(self.library)
        whole = [{**known, **made_by.get(str(row.get("backend")), plain), **row} for row in rows]
        return validate(pd.DataFrame(whole), form).to_pandas()

    def schema(self) -> pa.Schema:
        """The shared columns and the study's own; all may be empty, since most describe a trained model."""
        kept = row_schema(self.columns)
        return pa.schema([field.with_nullable(True) for field in kept], metadata=kept.metadata)

    def plan(self, preset: Preset) -> list[Job]:
        return []

    def settings(self, preset: Preset, world: World, arm: Arm) -> dict[str, Any]:
        raise ValueError(f"study {self.name!r} trains no model")

    def measure(self, model: Model, run: Run, settings: Mapping[str, Any]) -> Measured:
        raise ValueError(f"study {self.name!r} measures no trained model")
