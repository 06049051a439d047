"""What of a study fits into a given time: kept by what claims need, in all seeds, and never beyond the budget."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_rows import frame

from eltbench import studies
from eltbench.cli import budget
from eltbench.core import durations
from eltbench.evidence.claims import FEWEST_SEEDS
from eltbench.evidence.results import describe
from eltbench.studies.presets import load_preset
from eltbench.training.job import Job

PLANS = [
    ("extrapolation", "digits"),
    ("extrapolation", "digits-toggles"),
    ("depth_grid", "digits"),
    ("depth_grid", "widths"),
    ("convergence", "digits"),
    ("convergence", "ablation"),
]


def plan(study, preset, seeds=()):
    """A study and the jobs of one of its presets."""
    made = studies.create(study)
    return made, made.plan(load_preset(study, preset).narrowed(seeds=seeds))


@functools.cache
def prepared(which):
    return plan(*which, seeds=(0, 1, 2, 3, 4))


def price(jobs, cached=(), seconds=None):
    """A cost of every run: what is said, or its depth in minutes, made one after the other."""
    runs = [run for job in jobs for run in (job.run, *job.companions)]
    each = {Job(run).run_id: 60.0 * run.architecture.effective_depth for run in runs}
    each |= dict(zip(each, seconds or (), strict=False)) | dict.fromkeys(cached, 0.0)
    return lambda run_ids: sum(each[run_id] for run_id in sorted(run_ids))


def total(jobs, cost):
    return cost({job.run_id for job in jobs})


def models(jobs):
    """The seeds of every model of a plan, by its name and role."""
    found: dict[tuple[str, str], list[int]] = {}
    for job in jobs:
        found.setdefault((job.model, job.keys["role"]), []).append(job.run.seed)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("study", "preset"), PLANS)
def test_a_budget_that_holds_all_leaves_nothing_out(study, preset):
    made, jobs = plan(study, preset)
    cost = price(jobs)
    choice = budget.choose(made, jobs, cost, total(jobs, cost))
    assert sorted(job.run_id for job in choice.jobs) == sorted(job.run_id for job in jobs)
    assert choice.told() == ["left out: nothing"]


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    share=st.floats(0.0, 1.0),
    seconds=st.lists(st.floats(1.0, 1000.0), min_size=90, max_size=90),
    cached=st.sets(st.integers(0, 24)),
    which=st.sampled_from(PLANS[:5:2]),
)
def test_what_is_kept_fits_and_nothing_that_is_left_out_would_fit_beside_it(share, seconds, cached, which):
    made, jobs = prepared(which)
    cost = price(jobs, [jobs[place].run_id for place in cached if place < len(jobs)], seconds)
    limit = share * total(jobs, cost)
    try:
        choice = budget.choose(made, jobs, cost, limit)
    except ValueError:
        small = [job for job in jobs if job.run.seed < FEWEST_SEEDS and job.run.trainer == "elt"]
        assert limit < total(small, cost)
        return
    kept, planned = models(choice.jobs), models(jobs)
    assert total(choice.jobs, cost) <= limit + 1e-6
    (seeds,) = {tuple(seeds) for seeds in kept.values()}  # the same in every model
    assert len(seeds) >= FEWEST_SEEDS
    assert len(choice.left_out) == len(planned) - len(kept) + (len(seeds) < 5)
    if len(seeds) == len(next(iter(planned.values()))):
        for name in planned.keys() - kept.keys():
            more = [job for job in jobs if (job.model, job.keys["role"]) == name]
            assert total([*choice.jobs, *more], cost) > limit - 1e-6


@pytest.mark.slow
def test_what_no_claim_needs_goes_first_and_headline_models_last():
    study, jobs = plan("depth_grid", "digits")
    everything = set(models(jobs))
    roles = []
    for share in np.linspace(1, 0.3, 29):
        cost = price(jobs, seconds=[100.0] * len(jobs))
        kept = set(models(budget.choose(study, jobs, cost, share * total(jobs, cost)).jobs))
        roles.append({role for _, role in everything - kept})
    gone = [roles.index(next(left for left in roles if role in left)) for role in ("equal-parameters", "dedicated")]
    assert gone == sorted(gone)
    assert all("dedicated" in left for left in roles if "main" in left)
    study, jobs = plan("extrapolation", "digits-toggles")
    cost = price(jobs, seconds=[100.0] * len(jobs))
    (left,) = {
        tuple(models(budget.choose(study, jobs, cost, seconds).jobs)) for seconds in (500.0, 600.0, 999.0)
    }  # elt alone is what claims need
    assert left == (("elt diffusion digits 2N×4L", "main"),)


def test_cached_runs_take_no_time_and_are_kept():
    study, jobs = plan("extrapolation", "digits")
    universal = [job for job in jobs if job.run.trainer == "universal-transformer"]
    elt = [job for job in jobs if job.run.trainer == "elt" and job.run.task == "masked"]
    cost = price(jobs, [job.run_id for job in universal])
    choice = budget.choose(study, jobs, cost, total(elt, cost))
    assert {job.run_id for job in universal} < {job.run_id for job in choice.jobs}
    cost = price(jobs, [job.run_id for job in jobs])
    assert budget.choose(study, jobs, cost, 0.1).told() == ["left out: nothing"]


def test_companions_that_a_measurement_asks_cost_what_they_take():
    study, jobs = plan("disagreement", "digits", seeds=(0, 1, 2))
    elt = [job for job in jobs if (job.run.trainer, job.run.task) == ("elt", "diffusion")]
    each, cost = 60.0 * 8, price(jobs)
    assert {run.seed for job in elt for run in job.companions} == {0, 1, 2, 3, 4}
    with pytest.raises(ValueError, match=f"smallest budget that would work is {5 * each:.0f}s"):
        budget.choose(study, jobs, cost, 5 * each - 1)
    assert budget.choose(study, jobs, cost, 5 * each).jobs == elt
    assert len(budget.choose(study, jobs, price(jobs, [job.run_id for job in elt]), 2 * each).jobs) == 3


def test_claims_that_lose_a_model_are_named_with_their_cells():
    study, jobs = plan("extrapolation", "digits")
    elt = [job for job in jobs if job.run.trainer == "elt"]
    cost = price(jobs, [job.run_id for job in jobs if job.run.trainer == "no-ilsd" and job.run.task == "masked"])
    choice = budget.choose(study, jobs, cost, total(elt, cost))
    assert choice.undecided == {claim: ["diffusion digits torch"] for claim in ("vanilla-collapse", "vanilla-parity")}
    said = "cannot be decided by these runs: vanilla-parity, diffusion digits torch"
    assert said in choice.told()
    assert "left out: unique-depth diffusion digits 8N×1L (equal-compute)" in choice.told()


def test_seeds_are_fewer_only_where_no_claim_would_be_left_and_never_below_three():
    study, jobs = plan("extrapolation", "relay")
    elt = [job for job in jobs if job.run.trainer == "elt" and job.keys["role"] == "main"]
    cost = price(jobs)
    choice = budget.choose(study, jobs, cost, 0.9 * total(elt, cost))
    assert [job.run_id for job in choice.jobs] == [job.run_id for job in elt[:4]]
    assert choice.left_out[-1] == "seeds 4 of all that is kept"
    with pytest.raises(ValueError, match=r"smallest budget that would work is 1440s \(24 min 00 s\)") as no:
        budget.choose(study, jobs, cost, 0.5 * total(elt, cost))
    assert "24 min 00 s), for what elastic compares in masked relay torch: elt masked relay 2N×4L" in str(no.value)
    assert len(budget.choose(study, jobs, cost, durations.seconds("budget", "24min")).jobs) == 3


def test_seeds_that_are_there_already_come_first_and_are_the_same_of_every_model():
    study, jobs = plan("depth_grid", "digits")
    headline = [job for job in jobs if job.keys["role"] in ("main", "equal-compute") and job.run.task == "diffusion"]
    cached = [job.run_id for job in headline if job.run.seed in (1, 3, 4)]
    choice = budget.choose(study, jobs, price(jobs, cached), 1.0)
    kept = models(choice.jobs)
    assert set(map(tuple, kept.values())) == {(1, 3, 4)}
    assert set(kept) == set(models(headline))
    assert choice.left_out[-1] == "seeds 0 2 of all that is kept"
    claims = {claim for claim, cells in choice.undecided.items() if any("diffusion" in cell for cell in cells)}
    assert claims == {"diminishing-loops"}  # which needs dedicated models too


def test_seeds_are_those_in_which_a_claim_is_nearest_and_not_those_in_which_most_is_there():
    study, jobs = plan("extrapolation", "relay")
    elt = [job for job in jobs if job.run.trainer == "elt" and job.keys["role"] == "main"]
    others = [job for job in jobs if job not in elt and job.run.seed in (0, 1)]
    cost = price(jobs, [job.run_id for job in [*elt[2:], *others]])
    assert {job.run.seed for job in budget.choose(study, jobs, cost, 1.0).jobs} == {2, 3, 4}
    unique = [job for job in jobs if job.run.trainer == "unique-depth" and job.run.seed in (1, 4)]
    cost = price(jobs, [job.run_id for job in unique])  # what claims compare costs the same in all
    choice = budget.choose(study, jobs, cost, 0.6 * total(elt, cost))
    assert {job.run.seed for job in choice.jobs} == {0, 1, 4}


def test_a_preset_of_few_seeds_keeps_those_that_it_has():
    study, jobs = plan("extrapolation", "smoke")
    cost = price(jobs)
    choice = budget.choose(study, jobs, cost, 0.5 * total(jobs, cost))
    assert {job.run.seed for job in choice.jobs} == {0}


def test_a_plan_without_any_claim_keeps_its_cheapest_models():
    study, jobs = plan("extrapolation", "digits")
    jobs = [replace(job, keys={"role": "dedicated"}) for job in jobs if job.keys["role"] != "main"]
    cost = price(jobs)
    choice = budget.choose(study, jobs, cost, 60.0 * 10)
    assert {job.run.architecture.effective_depth for job in choice.jobs} == {2}
    no = r"no model fits into 1.0 s with 3 seeds; the smallest budget that would work is 360s .* for no-ilsd"
    with pytest.raises(ValueError, match=no):
        budget.choose(study, jobs, cost, 1.0)
    with pytest.raises(ValueError, match=r"no model fits into 1.0 s with 1 seed; .* is 120s"):
        budget.choose(study, [job for job in jobs if job.run.seed == 0], cost, 1.0)


def rows_of(study, jobs):
    """Rows that a study might have measured of these jobs, every loss another."""
    rng, rows = np.random.default_rng(0), []
    for job in jobs:
        known = describe(job)
        for step in job.settings.get("training_steps", [None]):
            cost = {} if step is None else {f"training_{name}": step for name in ("step", "samples", "flops")}
            for loops in job.settings["exits"]:
                rows.append({**known, **cost, "metric": "heldout_loss", "loops": loops, "value": 1 + rng.random()})
        if job.settings.get("diagnose_loops"):
            for quarter in (0, 3):
                seen = {"metric": "late_update_norm", "stratum": f"noise quarter {quarter}", "value": 1 + rng.random()}
                rows.append({**known, **seen})
    return frame(rows, study.columns)


def decided(study, rows):
    """The claims with effects in every condition, and where."""
    if rows.empty:
        return set()
    return {
        (claim, cell)
        for claim, cells in study.evidence(rows).items()
        for cell, shown in cells.items()
        if all(len(pd.Series(effects)) for effects in shown.primary.values())
    }


@pytest.mark.slow
@pytest.mark.parametrize(("study", "preset"), PLANS[::2])
def test_claims_need_the_models_that_their_evidence_reads_and_no_others(study, preset):
    made, jobs = plan(study, preset, seeds=(0,))
    jobs = [job for job in jobs if job.run.task == "diffusion" and job.run.architecture.width == 64]
    rows = rows_of(made, jobs)
    planned = {claim for claim, _ in decided(made, rows)}
    assert planned
    columns = pd.DataFrame([describe(job) for job in jobs])
    for claim, needs in ((claim.id, claim.needs) for claim in made.claims if not claim.family):
        sides = [(columns[list(side)] == pd.Series(side)).all(axis=1) for side in needs]
        assert all(side.any() for side in sides) == (claim in planned)
        if claim not in planned:
            continue
        needed = columns[np.any(sides, axis=0)]["run_id"]
        assert claim in {name for name, _ in decided(made, rows[rows["run_id"].isin(needed)])}
        for side in sides:
            without = rows[~rows["run_id"].isin(columns[side]["run_id"])]
            assert claim not in {name for name, _ in decided(made, without)}
