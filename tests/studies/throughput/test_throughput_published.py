"""What a throughput folder says follows from its own rows, and these from its raw timings."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up import GROUP, Paper

import eltbench
from eltbench import studies
from eltbench.cli import run_study as command
from eltbench.evidence.report import published
from eltbench.studies import deciding
from eltbench.studies.throughput import measuring
from eltbench.studies.throughput.cell_groups import preset_from_table
from eltbench.studies.throughput.study import COVERS

RESULTS = Path(__file__).parents[3] / "results" / "throughput"
STUDY = studies.create("throughput")
TIMES = ("call_seconds", "sample_seconds", "step_seconds")


def check(folder):
    """Raises AssertionError where a folder contradicts itself."""
    rows, said = eltbench.load_rows(folder), json.loads((folder / "claims.json").read_text())
    found = {
        each.claim.id: {**each.to_dict(), "intervals_cover": COVERS}
        for each in deciding.decide_all(STUDY, rows, presets=None, smoke=False)
    }
    assert said["claims"] == json.loads(json.dumps(found))
    assert said["sentences"] == STUDY.remarks(rows)

    (entry,) = json.loads((folder / "provenance.json").read_text())["commands"]
    (values,) = entry["presets"]
    preset = preset_from_table(values.pop("name"), values)
    cells = rows[rows["measure"] != "ceiling"]
    assert set(cells["run_id"]) == {cell.id for cell in preset.cells}
    processes = cells[cells["metric"].isin(TIMES)].groupby("run_id")["seed"].nunique()
    missing = set(cells[cells["metric"].str.startswith(("skipped_", "failed_"))]["run_id"])
    assert set(processes[~processes.index.isin(missing)]) == {preset.processes}

    raw = pd.read_parquet(folder / "timings.parquet")
    raw = raw[raw["last"]].assign(each=lambda it: it["seconds"] / it["calls"])
    medians = raw.groupby(["run_id", "process", "contender"])["each"].median()
    times = cells[cells["metric"].isin(TIMES)].set_index(["run_id", "seed", "role"])["value"]
    times.index.names = medians.index.names
    assert len(times) == len(medians)
    assert np.allclose(times, medians.loc[times.index])
    return rows


@pytest.fixture
def folder(tmp_path, monkeypatch):
    groups = [GROUP, {**GROUP, "widths": [64], "pairs": [[1, 12]]}, {**GROUP, "measure": "self"}]
    lines = (", ".join(f"{name} = {json.dumps(value)}" for name, value in group.items()) for group in groups)
    tables = ", ".join(f"{{ {line} }}" for line in lines)
    (tmp_path / "my.toml").write_text(f"[paper]\ngroups = [{tables}]\n")
    monkeypatch.setattr(measuring, "measure", functools.partial(measuring.measure, nursery=Paper()))
    monkeypatch.setattr("eltbench.evidence.figures.save", lambda figure, stem: None)
    asked = ["--preset", f"{tmp_path / 'my.toml'}:paper", "--results", str(tmp_path / "results")]
    assert command.main("throughput", asked) == 0
    return tmp_path / "results" / "throughput" / "paper"


@pytest.mark.slow
def test_a_folder_follows_from_its_rows_and_they_from_the_raw_timings(folder):
    check(folder)
    raw = pd.read_parquet(folder / "timings.parquet")
    raw.assign(seconds=raw["seconds"] * 1.01).to_parquet(folder / "timings.parquet")
    with pytest.raises(AssertionError):
        check(folder)


def test_every_committed_folder_does_and_comes_from_a_clean_commit():
    for folder in published.folders(RESULTS):
        rows = check(folder)
        assert not rows["git_dirty"].any()
