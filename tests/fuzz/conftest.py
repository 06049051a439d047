"""What the fuzz tests start from: a small run cache, a folder of results, and an empty place to work in."""

from __future__ import annotations

import importlib
import shutil
import warnings
from pathlib import Path

import pytest
from start import PUBLISHED, TRAINED

from eltbench import studies
from eltbench.evidence import results
from eltbench.evidence.schema import part_schema
from eltbench.execution.store import RunStore
from eltbench.training.identity import run_id
from eltbench.training.job import Job
from eltbench.training.loop import fit


@pytest.fixture(autouse=True)
def plain_warnings():
    """A warning is no traceback: what these tests look for are exceptions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="session", autouse=True)
def libraries():
    """What libraries look for when they are first imported (fonts, say) is not a case's doing."""
    for name in (
        "evidence.figures",
        "cli.commands",
        "cli.runs",
        "evidence.report.page",
        "evaluation.quality.distances",
        "evaluation.stopping.anytime",
    ):
        importlib.import_module(f"eltbench.{name}")
    for name in studies.names():
        studies.get(name)


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> RunStore:
    """A run cache with three finished runs, the first with a measurement."""
    store = RunStore(tmp_path_factory.mktemp("fuzz") / "runs")
    for run in TRAINED.values():
        fit(run, store.directory(run_id(run)))
        store.begin(run, run_id(run))
        store.finish(run, run_id(run), seconds=1.0, resumed=False)
    run = TRAINED["digits"]
    job = Job(run, "extrapolation", {"draws": 1})
    measured = [{"loops": 1, "split": "heldout", "metric": "heldout_loss", "value": 0.5}]
    rows = results.stamp(measured, run, job.run_id, job.digest, {})
    results.write_rows(store.measurement_path(job.run_id, "extrapolation", job.digest), rows, part_schema())
    return store


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """The working folder of a case, the only place that it may write to; a canary and a trap lie beside it."""
    home = tmp_path / "home" / "here"
    home.mkdir(parents=True)
    (tmp_path / "canary").write_text("alive")
    (home / "eltbench_trap.py").write_text("raise SystemExit('a trap was imported')\n")
    monkeypatch.chdir(home)
    monkeypatch.syspath_prepend(str(home))
    monkeypatch.setenv("ELTBENCH_RUNS", str(home / "runs"))
    monkeypatch.setenv("HOME", str(home))
    return home


@pytest.fixture
def runs(place, trained) -> Path:
    """A copy of the run cache, to be made bad."""
    return shutil.copytree(trained.root, place / "runs")


@pytest.fixture
def published(place) -> Path:
    """A copy of published results without their pictures, to be made bad."""
    folder = place / "results" / "extrapolation" / "relay"
    folder.mkdir(parents=True)
    for name in ("claims.json", "provenance.json", "rows.parquet", "summary.csv"):
        shutil.copyfile(PUBLISHED / name, folder / name)
    return folder
