"""A study's folder of results, written from its rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from eltbench import claims, results
from eltbench.atomic import replacing, write_json, write_text
from eltbench.schema import row_schema
from eltbench.studies import verdicts
from eltbench.studies.base import Study
from eltbench.studies.presets import Preset


def publish(
    folder: Path, study: Study, preset: Preset, rows: pd.DataFrame, commands: list[dict[str, Any]]
) -> list[claims.Decision]:
    """Rows, summary, figure, claims and provenance into the study's folder, each file whole; rows come last.

    All that is derived from the rows is made before they replace the published ones.
    """
    from eltbench import figures

    decisions = verdicts.decide_all(study, rows, smoke=preset.smoke)
    with replacing(folder / "summary.csv") as temporary:
        study.summarise(rows).to_csv(temporary, index=False, float_format="%.6g")
    with figures.plain():
        figures.save(study.figure(rows), folder / "figure")
    write_text(folder / "claims.json", verdicts.as_json(study.name, preset.name, decisions))
    write_json(folder / "provenance.json", {"commands": commands}, indent=1)
    results.write_rows(folder / "rows.parquet", rows, row_schema(study.columns))
    return decisions
