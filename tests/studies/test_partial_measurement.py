"""A part of a measurement that fails leaves its reason beside what was measured, and is not cached."""

from __future__ import annotations

import numpy as np
import pytest

from eltbench import studies
from eltbench.execution.collect import collect
from eltbench.execution.store import RunStore
from eltbench.execution.worker import work
from eltbench.studies.convergence import study as convergence
from eltbench.studies.depth_grid import study as depth_grid
from eltbench.studies.extrapolation import study as extrapolation
from eltbench.studies.presets import Arm, Preset, World

OPTIMISATION = {"steps": 2, "batch_size": 8, "warmup_steps": 1}
MEASUREMENT = {"heldout_draws": 1, "samples": 5, "sampling": {"steps": 1}}
SHAPE = {"unique_layers": 1, "max_loops": 2, "width": 8, "heads": 2}
REASON = "ValueError: the scorer is broken"


def broken(*given, **named):
    raise ValueError("the scorer is broken")


def planned(study: str, optimisation=(), **measurement):
    preset = Preset(
        "tiny",
        seeds=(0,),
        worlds=(World("diffusion", "digits"),),
        arms=(Arm("elt"),),
        architecture=SHAPE,
        optimisation={**OPTIMISATION, **dict(optimisation)},
        measurement={**MEASUREMENT, **measurement},
    )
    (job,) = studies.create(study).plan(preset)
    return job


def collected(job, store):
    return collect([job], store, job.study, "tiny", studies.get(job.study).columns)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "changes"),
    [(extrapolation, {}), (depth_grid, {"timed_batch": 0}), (convergence, {})],
    ids=["extrapolation", "depth_grid", "convergence"],
)
def test_what_was_measured_stays_with_the_reason_for_the_rest_and_is_measured_again(
    module, changes, monkeypatch, tmp_path
):
    study = module.__name__.split(".")[2]
    job = planned(study, {"snapshot_every": 1} if module is convergence else {}, **changes)
    store, events = RunStore(tmp_path), []
    with monkeypatch.context() as patched:
        patched.setattr(module, "sample_scores", broken)
        work([[job]], store, events.append)
    assert events[-1] == {
        "run": job.run_id,
        "error": f"RuntimeError: a part of a measurement failed: {REASON}",
    }
    assert "scorer is broken" in store.failure(job.run_id)
    assert store.state(job.run_id) == "done"
    assert not store.is_cached(job)
    rows = collected(job, store)
    assert np.isfinite(rows[rows["metric"] == "heldout_loss"]["value"]).all()
    (empty,) = rows[rows["metric"] != "heldout_loss"].itertuples()
    assert (empty.metric, empty.reason) == ("sample_scores", REASON)
    assert np.isnan(empty.value)
    made = studies.create(study)
    assert len(made.summarise(rows))
    made.figure(rows)

    work([[job]], store, events.append)
    assert {name: events[-1][name] for name in ("done", "trained", "measured")} == {
        "done": True,
        "trained": False,
        "measured": 1,
    }
    assert store.is_cached(job)
    assert store.failure(job.run_id) is None
    assert not list(tmp_path.rglob("*.incomplete.parquet"))
    again = collected(job, store)
    assert again["reason"].isna().all()
    assert "kernel_distance" in set(again["metric"])


def test_the_diagnostics_fail_alone(monkeypatch, tmp_path):
    job, store = planned("extrapolation", samples=0, diagnose_loops=[1]), RunStore(tmp_path)
    monkeypatch.setattr(extrapolation.trajectory, "diagnose", broken)
    work([[job]], store, [].append)
    rows = collected(job, store)
    assert list(rows[rows["value"].isna()]["metric"]) == ["diagnostics"]
    assert list(rows[rows["value"].isna()]["reason"]) == [REASON]
