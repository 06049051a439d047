"""The runs of `trained_runs`, trained once, and one of them as a model."""

from __future__ import annotations

import pytest
from trained_runs import RUNS

from eltbench.training.identity import run_id
from eltbench.training.loop import fit
from eltbench.training.model import Model, load_model


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """A folder of trained runs, each under its id."""
    root = tmp_path_factory.mktemp("runs")
    for run in RUNS.values():
        fit(run, root / run_id(run))
    return root


@pytest.fixture
def model(store, request) -> Model:
    return load_model(run_id(RUNS[getattr(request, "param", "diffusion")]), runs=store)
