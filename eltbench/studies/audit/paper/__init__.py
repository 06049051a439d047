"""The paper's numbers and claims as tables (arXiv 2604.09168), carried inside the package."""

from __future__ import annotations

from importlib.resources import as_file, files

import pandas as pd

from eltbench.core.validation import unknown


def names() -> list[str]:
    """The tables there are, in alphabetical order."""
    return sorted(entry.name.removesuffix(".csv") for entry in files(__name__).iterdir() if entry.name.endswith(".csv"))


def table(name: str, *, printed: bool = False) -> pd.DataFrame:
    """The table `name` with the file's own columns, as text where `printed`: "2.10" keeps its digits, a gap is "".

    Raises ValueError for an unknown name, with the near miss.
    """
    if name not in names():
        raise ValueError(unknown("table of the paper", name, names()))
    with as_file(files(__name__) / f"{name}.csv") as path:
        return pd.read_csv(path, dtype=str, keep_default_na=False) if printed else pd.read_csv(path)
