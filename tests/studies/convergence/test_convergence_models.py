"""The study convergence: what it asks of which model, what it refuses, and the rows that it measures."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from eltbench import accounting, studies
from eltbench.accounting import NetworkSpec
from eltbench.cli import run_study as command
from eltbench.evaluation import heldout
from eltbench.evidence import results
from eltbench.evidence.schema import part_schema
from eltbench.execution.step_cost import step_flops
from eltbench.studies.convergence.study import training_flops
from eltbench.studies.convergence.variants import VARIANTS
from eltbench.studies.presets import Arm, Preset, World, load_preset
from eltbench.training.loop import fit, parts
from eltbench.training.model import load_model

STUDY = studies.create("convergence")
SHAPE = {"unique_layers": 1, "max_loops": 4, "width": 16, "heads": 2}
OPTIMISATION = {"steps": 10, "batch_size": 8, "warmup_steps": 1, "snapshot_every": 4}
WORLD = World("diffusion", "digits")
UNIQUE = Arm("unique-depth", "equal-compute", {"unique_layers": 4, "max_loops": 1})
COSINE = Arm("elt", "cosine", trainer_options={"decay": "cosine"})


def preset(*arms, **changes) -> Preset:
    settings = {"architecture": SHAPE, "optimisation": OPTIMISATION, "measurement": {"samples": 20}, **changes}
    return Preset("made-up", arms=arms, worlds=(WORLD,), **settings)


def settings(arm, *others, **changes):
    return STUDY.settings(preset(arm, *others, **changes), WORLD, arm)


# What is asked, and what is refused


@pytest.mark.parametrize(
    ("arm", "exits", "sampled"),
    [
        (Arm("elt"), [2, 4], True),
        (COSINE, [2, 4], True),
        (Arm("elt", "half-parameters", {"unique_layers": 2, "max_loops": 2}), [1, 2], False),
        (Arm("elt", architecture={"max_loops": 3}), [3], True),
        (Arm("no-ilsd"), [2, 4], False),
        (UNIQUE, [1], False),
    ],
)
def test_every_model_is_asked_at_its_own_depth_and_half_of_it_at_every_snapshot_and_the_end(arm, exits, sampled):
    asked = settings(arm)
    assert asked["training_steps"] == [4, 8, 10]
    assert asked["exits"] == exits
    assert asked["sample_loops"] == (exits if sampled else [])


def test_without_samples_nothing_is_sampled():
    assert settings(COSINE, measurement={})["sample_loops"] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimisation": {**OPTIMISATION, "schedule": "cosine"}}, "constant learning rate alone, given .*'cosine'"),
        ({"optimisation": {**OPTIMISATION, "snapshot_every": 0}}, "a curve needs snapshots .* snapshot_every = 0"),
        ({"optimisation": {**OPTIMISATION, "snapshot_every": 10}}, "before the last of 10 steps"),
        ({"optimisation": {**OPTIMISATION, "ema_decay": 0.0}}, "a curve is of averaged weights, given ema_decay = 0,"),
        ({"measurement": {"heldout_drows": 1}}, "unknown measurement field 'heldout_drows'; did you mean"),
        ({"measurement": {"sampling": {"stepps": 1}}}, "did you mean 'steps'"),
    ],
)
def test_what_gives_no_curve_is_refused_before_any_training(changes, message):
    with pytest.raises(ValueError, match=message):
        settings(Arm("elt"), **changes)


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ([Arm("elt", "cosine")], "an arm of role 'cosine' is .*'decay': 'cosine'.*, given .*{}"),
        ([Arm("elt", "cosine", trainer_options={"decay": "step"})], "given .*'decay': 'step'"),
        ([Arm("no-ilsd", "no-student")], "given {'trainer': 'no-ilsd'"),
        ([COSINE, Arm("elt", trainer_options={"decay": "step"})], "beside linear decay and all terms"),
        ([Arm("elt", architecture={"max_loops": 3}), UNIQUE], r"runs 3 layers of width 16, .* width\) \[\(4, 16\)\]"),
        ([COSINE, Arm("elt", architecture={"unique_layers": 2})], "must have the architecture of elt's main arm"),
    ],
)
def test_arms_that_their_role_misnames_or_that_would_not_compare_are_refused(arms, message):
    with pytest.raises(ValueError, match=message):
        settings(*arms)


def test_main_models_and_variants_are_told_apart_and_two_of_a_kind_are_refused():
    variants = [Arm("elt", role, trainer_options=options) for role, options in VARIANTS.items()]
    jobs = STUDY.plan(preset(Arm("elt"), UNIQUE, *variants, seeds=(0, 1)))
    assert len({job.run_id for job in jobs}) == len(jobs) == 2 * (2 + len(VARIANTS))
    assert len({job.name for job in jobs}) == len(jobs)
    for twice in (Arm("elt", architecture={"unique_layers": 2}), Arm("elt")):
        with pytest.raises(ValueError, match="two models that its rows could not tell apart"):
            STUDY.plan(preset(Arm("elt"), twice))


TRAININGS = {"smoke": 6, "quick": 6, "digits": 50, "ablation": 50, "relay": 25}


@pytest.mark.parametrize(("name", "runs"), TRAININGS.items())
def test_every_preset_plans_as_many_trainings_as_it_says(name, runs):
    jobs = STUDY.plan(load_preset("convergence", name))
    assert len({job.run_id for job in jobs}) == len(jobs) == runs
    assert all(job.run.optimisation.schedule == "constant" and job.run.optimisation.ema_decay > 0 for job in jobs)


def test_the_ablation_shares_the_runs_of_digits_that_it_compares_with():
    digits, ablation = (STUDY.plan(load_preset("convergence", name)) for name in ("digits", "ablation"))
    shared = {(job.run_id, job.digest) for job in digits} & {(job.run_id, job.digest) for job in ablation}
    assert len(shared) == len(ablation) - 35


# What is measured


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a tiny trained run of elt."""
    directory = tmp_path_factory.mktemp("run")
    fit(STUDY.plan(preset(Arm("elt"), seeds=(0,)))[0].run, directory)
    return directory


@pytest.fixture(scope="module")
def measured(trained):
    model = load_model(trained)
    asked = {**settings(Arm("elt")), "sampling": {"steps": 2}}
    return model, STUDY.measure(model, model.run, asked)


@pytest.mark.slow
def test_the_rows_hold_the_loss_at_every_snapshot_and_exit_and_its_cost(measured, trained):
    model, found = measured
    losses = [row for row in found.rows if row["metric"] == "heldout_loss"]
    assert [(row["training_step"], row["loops"]) for row in losses] == [(s, r) for s in (4, 8, 10) for r in (2, 4)]
    for row in losses:
        then = load_model(trained, step=row["training_step"])
        (expected,) = heldout.evaluate(then, [row["loops"]], 4).losses
        assert row["value"] == pytest.approx(expected, rel=1e-6)
        assert row["training_samples"] == 8 * row["training_step"]
        assert row["training_flops"] == training_flops(model)[row["training_step"] - 1]
    assert len({row["value"] for row in losses}) == 6


@pytest.mark.slow
def test_the_samples_are_those_of_the_end_and_all_rows_fit_the_schema(measured):
    model, found = measured
    drawn = [row for row in found.rows if row["metric"] == "kernel_distance"]
    assert [(row["training_step"], row["loops"]) for row in drawn] == [(10, 2), (10, 4)]
    completed = results.stamp(found.rows, model.run, "0" * 16, "0" * 12, STUDY.columns)
    assert set(completed.columns) == set(part_schema(STUDY.columns).names)
    assert completed["training_step"].notna().all()


@pytest.mark.slow
def test_training_flops_are_those_of_the_exits_that_each_step_read(measured):
    model, _ = measured
    network = NetworkSpec(model.run.architecture, "looped", model.spec, True)
    of_a_step = 8 * sum(accounting.step_flops(network, 4, exits=2).values())
    assert np.allclose(training_flops(model), of_a_step * np.arange(1, 11))  # L_max is run at every step
    random = replace(model.run, trainer="random-loops")
    model = type(model)(random, model.engine, parts(random))
    steps = np.diff(training_flops(model), prepend=0) / 8
    known = {float(sum(accounting.step_flops(network, loops).values())) for loops in range(1, 5)}
    assert len(set(steps)) > 1
    assert set(steps) <= known


@pytest.mark.parametrize(
    ("trainer", "options"),
    [("elt", {"teacher": False}), ("elt", {"student": False, "distillation": False}), ("deq", {"phantom_steps": 9})],
)
def test_training_flops_are_those_that_the_cost_of_a_step_is_estimated_from(measured, trainer, options):
    model, _ = measured
    architecture = replace(model.run.architecture, input_injection=trainer == "deq")
    run = replace(model.run, trainer=trainer, trainer_options=tuple(options.items()), architecture=architecture)
    model = type(model)(run, model.engine, made := parts(run))
    steps = np.diff(training_flops(model), prepend=0)
    assert list(steps) == [step_flops(run, made, [step]) for step in range(10)]


TINY = """
[tiny]
seeds = 1
architecture = { unique_layers = 1, max_loops = 2, width = 16, heads = 2 }
optimisation = { steps = 6, batch_size = 8, warmup_steps = 1, log_every = 2, snapshot_every = 2 }
measurement = { heldout_draws = 1 }
worlds = [{ task = "diffusion", dataset = "digits" }]
arms = [
    { trainer = "elt" },
    { trainer = "unique-depth", role = "equal-compute", architecture = { unique_layers = 2, max_loops = 1 } },
]
"""


@pytest.mark.slow
def test_the_command_writes_the_same_files_as_every_study_and_trains_once(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(type(STUDY), "remarks", lambda self, rows: [f"a remark on {len(rows)} rows"])
    (tmp_path / "mine.toml").write_text(TINY)
    where = [f"--runs={tmp_path / 'runs'}", f"--results={tmp_path / 'results'}", "--workers=2"]
    arguments = [f"--preset={tmp_path / 'mine.toml'}:tiny", *where]
    lines = []
    for _ in range(2):
        assert command.main("convergence", arguments) == 0
        *said, last = capfd.readouterr().out.splitlines()
        # above three places; three steps of elt at two exits, and of unique depth at one
        assert said[-4] == "a remark on 9 rows"
        lines.append(json.loads(last))
    assert [(line["runs_done"], line["runs_cached"]) for line in lines] == [(2, 0), (0, 2)]
    assert sorted(path.name for path in (tmp_path / "results" / "convergence" / "tiny").iterdir()) == [
        ".lock",
        "claims.json",
        "figure.pdf",
        "figure.png",
        "provenance.json",
        "rows.parquet",
        "summary.csv",
    ]
    rows = results.load_rows(tmp_path / "results")
    assert sorted(set(rows["training_step"])) == [2, 4, 6]
