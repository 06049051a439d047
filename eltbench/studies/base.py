"""What a study is: plan → measure → summarise → figure, and the evidence for the claims it decides."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, product
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd
import pyarrow as pa

from eltbench.core.config import Run
from eltbench.core.validation import unknown
from eltbench.evidence.claims import COVERS, Cell, Claim, Evidence
from eltbench.evidence.results import CELL, describe
from eltbench.evidence.schema import row_schema
from eltbench.studies.presets import Arm, Preset, World
from eltbench.training.identity import run_id, source
from eltbench.training.job import Job

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from eltbench.training.model import Model


@dataclass(frozen=True)
class Measured:
    """Rows of one model to publish, and raw tables (per sample) that stay beside the run.

    failed: errors of its parts. The rows are then published, the run counts as failed, and the measurement is not
    cached: the repeated command makes it again.
    """

    rows: list[dict[str, Any]]
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    failed: tuple[Exception, ...] = ()

    def with_part(self, name: str, measure: Callable[[], list[dict[str, Any]]]) -> Measured:
        """These and the rows of one more part; where it fails, one empty row in its name with the reason.

        For studies with a column `reason`.
        """
        try:
            return replace(self, rows=[*self.rows, *measure()])
        except Exception as error:
            row = {"metric": name, "value": None, "reason": " ".join(f"{type(error).__name__}: {error}".split())}
            return replace(self, rows=[*self.rows, row], failed=(*self.failed, error))


class Study(ABC):
    """One question. `version` is raised when the same settings would measure something else."""

    name: ClassVar[str]
    version: ClassVar[int]
    columns: ClassVar[dict[str, pa.DataType]]  # key columns beyond the shared ones
    trained: ClassVar[bool] = True  # whether its rows are of trained models, which must have learned to be judged
    claims: ClassVar[tuple[Claim, ...]]  # those it decides; their number widens the intervals
    unasked: ClassVar[tuple[Claim, ...]] = ()  # those it would decide, had it a world for them
    chooses: ClassVar[bool] = False  # whether it measures validation items, so that the held-out ones stay unseen
    compared_within: ClassVar[tuple[str, ...]] = ("task", "dataset", "backend")  # columns that name a claim's cell
    covers: ClassVar[str] = COVERS  # what its intervals cover

    def schema(self) -> pa.Schema:
        """The columns of its rows."""
        return row_schema(self.columns)

    def cell(self, model: Mapping[str, Any]) -> tuple[Any, ...]:
        """What names one model in this study's table; the values of `model` are those of a row's columns."""
        return tuple(model[name] for name in (*CELL, "role"))

    def plan(self, preset: Preset) -> list[Job]:
        """One job per world, arm and seed; what cannot be, or could not be told apart later, raises ValueError here."""
        if preset.validation != self.chooses:
            said = "measures validation items" if self.chooses else "measures held-out items"
            raise ValueError(
                f"preset {preset.name!r}: study {self.name!r} {said}; set validation = {str(self.chooses).lower()}"
            )
        jobs = []
        own = {"source": written} if (written := source(type(self))) else {}  # of a plug-in: as with a run's parts
        for world, arm in product(preset.worlds, preset.sized_arms()):
            settings, keys = {**self.settings(preset, world, arm), **own}, self.keys(preset, world, arm)
            kind = preset.run(world, arm, seed=0)
            for seed in preset.seeds:
                asked, others = dict(settings), self.companions(preset, world, arm, seed)
                if others:
                    asked["companions"] = {of: list(map(run_id, runs)) for of, runs in others.items()}
                runs = tuple(chain.from_iterable(others.values()))
                jobs.append(Job(replace(kind, seed=seed), self.name, asked, keys, self.version, runs))
        if not jobs:
            raise ValueError(f"preset {preset.name!r} plans no run: it needs worlds, arms and seeds")
        self._check_claims(list(describe(jobs[0])))
        seen: set[tuple[Any, ...]] = set()
        for job in jobs:
            if (cell := self.cell(describe(job))) in seen:
                raise ValueError(
                    f"preset {preset.name!r} plans two models that its rows could not tell apart: {job.name} "
                    f"({job.keys['role']}); name an arm, world or seed once, and give a further size of a trainer a "
                    "role of its own"
                )
            seen.add(cell)
        return jobs

    def _check_claims(self, columns: list[str]) -> None:
        """Raise ValueError where the class names a column that no model has."""
        for claim in self.claims:
            if not isinstance(claim, Claim):
                raise ValueError(f"study {self.name!r}: its claims are of evidence.claims.Claim, given {claim!r}")
        named = {f"the needs of claim {claim.id!r}": set().union(*claim.needs) for claim in self.claims}
        for where, names in {**named, "compared_within": set(self.compared_within)}.items():
            for name in sorted(names - set(columns)):
                raise ValueError(f"study {self.name!r}: {unknown(f'column in {where}', name, columns)}")

    def keys(self, preset: Preset, world: World, arm: Arm) -> dict[str, Any]:
        """The values of the study's key columns that only the plan knows; they touch no training or measurement."""
        return {"role": arm.role}

    def companions(self, preset: Preset, world: World, arm: Arm, seed: int) -> dict[str, tuple[Run, ...]]:
        """Other runs whose models `measure` asks beside its own, by what they are for; by default none.

        They are trained first, and settings["companions"] holds their ids under the same names (`Model.companion`).
        """
        return {}

    @abstractmethod
    def settings(self, preset: Preset, world: World, arm: Arm) -> dict[str, Any]:
        """What is measured of such a run, as plain JSON values; hashed into the measurement's identity."""

    @abstractmethod
    def measure(self, model: Model, run: Run, settings: Mapping[str, Any]) -> Measured:
        """Rows with loops, metric, value and what else differs from row to row; the rest is stamped on."""

    @abstractmethod
    def summarise(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The table that people read: one line per curve point, with its interval over seeds."""

    @abstractmethod
    def figure(self, rows: pd.DataFrame) -> Figure:
        """The study's figure."""

    sample_pictures: ClassVar[bool] = False
    """Whether samples by loops of its elt are left beside the rows as pictures; its settings say at which loops."""

    def remarks(self, rows: pd.DataFrame) -> list[str]:
        """What the command says below its table of claims, one line each: what no verdict shows."""
        return []

    def open_questions(self, jobs: Sequence[Job]) -> dict[str, str]:
        """Ids of claims that the rows of these jobs could not decide, and why; the command says it before training."""
        return {}

    def told(self, rows: pd.DataFrame) -> dict[str, Any]:
        """What claims.json says beside the claims, as plain JSON values."""
        return {}

    def why_nothing(self, rows: pd.DataFrame, claim: Claim) -> str:
        """Why no cell of these rows speaks to a claim; empty where no more can be said than that."""
        return ""

    def cells(self, rows: pd.DataFrame) -> Iterator[tuple[Cell, pd.DataFrame]]:
        """The rows of every cell in which `evidence` has effects."""
        for _, here in rows.groupby(list(Cell._fields)):
            yield Cell(*here[list(Cell._fields)].iloc[0]), here

    def final_losses(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The row of each trained model that says how well it ended, at the loops that it was trained for.

        metric heldout_loss, or else one that is compared with the mean error of items (see `heldout.Trivial`). Claims
        of models that have none are judged whatever the models have learned.
        """
        return rows[(rows["metric"] == "heldout_loss") & (rows["loops"] == rows["max_loops"])]

    @abstractmethod
    def evidence(self, rows: pd.DataFrame) -> dict[str, dict[Cell, Evidence]]:
        """Per-seed effects of every claim, in every cell where its estimand exists."""
