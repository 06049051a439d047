"""What evidence needs to know of a study: its claims, and what its rows say of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import pandas as pd
import pyarrow as pa

from eltbench.evidence.claims import Cell, Claim, Evidence

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Found = Mapping[str, Mapping[Cell, Evidence]]
"""Claim id → cell → its evidence."""


class Question(Protocol):
    """A study, as far as its rows are judged, drawn and published; `studies.base.Study` says more of each."""

    @property
    def name(self) -> str: ...
    @property
    def columns(self) -> Mapping[str, pa.DataType]: ...
    @property
    def claims(self) -> tuple[Claim, ...]: ...
    @property
    def covers(self) -> str: ...

    def why_nothing(self, rows: pd.DataFrame, claim: Claim) -> str:
        """Why no cell of these rows speaks to a claim; empty where no more can be said than that."""

    def told(self, rows: pd.DataFrame) -> dict[str, Any]:
        """What claims.json says beside the claims, as plain JSON values."""

    def summarise(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The table that people read."""

    def figure(self, rows: pd.DataFrame) -> Figure:
        """The study's figure."""
