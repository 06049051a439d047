"""The study disagreement: whose models it asks, what it refuses, and what its rows decide."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from decisive_rows import STUDY, decisive

from eltbench import studies
from eltbench.cli import run_study as command
from eltbench.evidence import results
from eltbench.evidence.claims import Cell
from eltbench.evidence.schema import part_schema
from eltbench.studies.deciding import decide_all
from eltbench.studies.disagreement import study as disagreement
from eltbench.studies.disagreement.claims import CLAIMS, OF_PUZZLES
from eltbench.studies.presets import Arm, Preset, World, load_preset
from eltbench.training.loop import build_engine, parts
from eltbench.training.model import Model

SHAPE = {"unique_layers": 1, "max_loops": 3, "width": 16, "heads": 2, "block": "bert"}
LATIN = World("masked", "latin")
UNIQUE = Arm("unique-depth", "equal-compute", {"unique_layers": 3, "max_loops": 1})


def preset(*arms, **changes) -> Preset:
    measurement = {"heldout_draws": 2, "strata": 2, "ensemble": 0, "splits": 3, **changes}
    return Preset(
        "made-up", worlds=(LATIN,), arms=arms or (Arm("elt"), UNIQUE), architecture=SHAPE, measurement=measurement
    )


# Whose models are asked


@pytest.mark.slow
@pytest.mark.parametrize(("name", "shared"), [("quick", 6), ("digits", 40), ("relay", 15), ("sudoku", 25)])
def test_its_models_are_those_of_the_same_preset_of_extrapolation(name, shared):
    theirs = {
        (job.run_id, job.keys["role"])
        for job in studies.create("extrapolation").plan(load_preset("extrapolation", name))
    }
    jobs = STUDY.plan(load_preset("disagreement", name))
    assert {(job.run_id, job.keys["role"]) for job in jobs} <= theirs
    assert len(jobs) == shared


def test_the_ensemble_is_every_other_seed_that_the_preset_declares_however_it_is_narrowed():
    whole = STUDY.plan(load_preset("disagreement", "digits"))
    narrow = STUDY.plan(load_preset("disagreement", "digits").narrowed(trainers=("elt",), seeds=(3,)))
    for job in whole:
        same = [other for other in whole if {**vars(other.run), "seed": 0} == {**vars(job.run), "seed": 0}]
        assert set(job.settings["companions"]["ensemble"]) == {other.run_id for other in same} - {job.run_id}
        assert {run.seed for run in job.companions} - {job.run.seed} == set(range(5)) - {job.run.seed}
    same = [job for job in whole if (job.run.trainer, job.run.seed) == ("elt", 3)]
    assert {(job.run_id, job.digest) for job in narrow} == {(job.run_id, job.digest) for job in same}


@pytest.mark.parametrize("name", ["digits", "sudoku"])  # in the latter unique layers have a residual scale of their own
def test_tokens_are_also_asked_of_the_unique_depth_arm_of_equal_compute_and_seed(name):
    jobs = STUDY.plan(load_preset("disagreement", name))
    arms = {job.run for job in jobs if job.keys["role"] == "equal-compute"}
    for job in jobs:
        asked = [run for run in job.companions if run.trainer == "unique-depth" != job.run.trainer]
        expected = [(8, job.run.seed)] if job.run.task == "masked" and job.run.trainer != "unique-depth" else []
        assert [(run.architecture.unique_layers, run.seed) for run in asked] == expected
        assert set(asked) <= arms


def test_other_companions_are_another_measurement_and_none_leave_no_trace():
    (alone, *_), (beside, *_), (unique, *_) = (
        STUDY.plan(preset(**more)) for more in ({}, {"ensemble": 2}, {"unique_depth": True})
    )
    assert "companions" not in alone.settings
    assert len({job.digest for job in (alone, beside, unique)}) == 3
    assert [len(job.companions) for job in (alone, beside, unique)] == [0, 1, 1]


@pytest.mark.slow
def test_puzzles_of_known_difficulty_are_asked_what_stopping_does_to_solving_and_nothing_else_is():
    asked = {job.run.dataset for job in STUDY.plan(load_preset("disagreement", "smoke")) if "solving" in job.settings}
    assert asked == {"sudoku"}  # not latin, whose items have no difficulty
    assert "solving" not in STUDY.settings(preset(), World("masked", "sudoku"), UNIQUE)  # which has nothing to stop


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unit": "token"}, "'latin' does not say what its items hide: leave it out"),
        ({"heldout_draws": 0}, "heldout_draws must be at least 1, given 0"),
        ({"ensemble": -1}, "ensemble must be at least 0, given -1"),
        ({"strta": 3}, "did you mean 'strata'"),
        ({"unit": "cell"}, "unit is given as 'cell'"),
        ({"samples": 193}, "at most the 192 held-out items of 'latin'"),
        ({"samples": 20, "sampling": {"guidance_scale": 2.0}}, "guidance_scale is 1, given 2.0"),
        ({"sampling": {"stesp": 2}}, "did you mean 'steps'"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_any_training(changes, message):
    with pytest.raises(ValueError, match=message):
        STUDY.plan(preset(**changes))


def test_a_world_too_small_to_calibrate_is_refused_with_the_size_that_would_do():
    world = World("masked", "relay", dataset_options={"heldout_items": 100})
    with pytest.raises(ValueError, match=r"35 calibrate .*at least 45, so 129 held out"):
        STUDY.settings(preset(), world, Arm("elt"))


def test_samples_that_nobody_can_judge_are_refused():
    with pytest.raises(ValueError, match="nobody can judge samples of 'relay'; leave samples at 0, given 20"):
        STUDY.settings(preset(samples=20), World("masked", "relay"), Arm("elt"))


# What is measured


def measured(arm, world=LATIN, **changes):
    made_up = preset(arm, **changes)
    run, settings = made_up.run(world, arm, 0), STUDY.settings(made_up, world, arm)
    made = parts(run)
    found = STUDY.measure(Model(run, build_engine(run, made), made), run, settings)
    return results.stamp(found.rows, run, "0" * 16, "0" * 12, STUDY.columns, lambda loops: {}), found.tables


@pytest.mark.slow
def test_a_looped_model_has_scores_rules_and_guarantees_and_a_table_a_unit():
    rows, tables = measured(Arm("universal-transformer"))
    assert list(rows.columns) == part_schema(STUDY.columns).names
    assert {"entropy", "ponder", "unhalted", "residual", "probe_boosted"} <= set(rows["signal"])
    assert {"negative_log_likelihood", "model_error", "irreducible"} <= set(rows["target"])
    assert {"fixed", "kl", "halting", "learned-gate", "oracle"} <= set(rows["rule"])
    assert {"risk_at_coverage", "excess_error_at_level", "loops_saved_over_fixed"} <= set(rows["metric"])
    assert set(rows["guarantee"].dropna()) == {"conformal risk control", "learn then test"}
    assert set(rows["alpha"].dropna()) == set(disagreement.LEVELS)
    assert set(rows["loops"]) == {1, 2, 3}
    honest = rows[(rows["scope"] == "tokens") & (rows["metric"] == "ece_before")]
    assert honest["signal"].tolist() == ["max_softmax"]
    assert len(tables["samples"]) == 3 * 2 * 192


def test_a_model_of_one_exit_has_the_scores_of_that_exit_and_nothing_to_stop():
    rows, tables = measured(UNIQUE)
    assert {"entropy", "max_softmax", "corruption_level"} <= set(rows["signal"])
    assert rows["rule"].isna().all()
    assert len(tables["samples"]) == 2 * 192


def test_companions_of_a_model_that_lies_in_no_folder_of_runs_are_refused():
    (job, *_) = STUDY.plan(preset(Arm("elt"), ensemble=2))
    made = parts(job.run)
    with pytest.raises(ValueError, match="was not loaded from a run's folder"):
        STUDY.measure(Model(job.run, build_engine(job.run, made), made), job.run, job.settings)


# What the rows decide


@pytest.mark.parametrize(
    ("changes", "verdicts"),
    [
        ({}, ["supported"] * 3),
        ({"gain": 0.0}, ["contradicted", "contradicted", "supported"]),
        ({"violations": 0.3}, ["supported", "supported", "contradicted"]),
        ({"saved": 0.1}, ["supported", "supported", "contradicted"]),
        ({"seeds": 2}, ["inconclusive"] * 3),
    ],
)
def test_each_claim_is_decided_by_its_own_rows_of_elt(changes, verdicts):
    decisions = decide_all(STUDY, decisive(**changes), presets=None, smoke=False)
    assert [decision.verdict for decision in decisions] == verdicts
    assert tuple(decision.claim for decision in decisions) == CLAIMS  # those on puzzles are not asked of this world


def puzzles(rank=0.5, solved=0.0, saved=0.3, over=0.1, share=0.8, **known):
    """Rows of elt from which the claims on puzzles are decided, at L_max and beyond, where all is otherwise."""
    metrics = {
        "loops_by_difficulty": rank,
        "solved_over_full": solved,
        "loops_saved": saved,
        "loops_saved_over_fixed": over,
        "solved": share,
    }
    rows = [
        {"metric": metric, "value": sign * value + 0.001 * seed, "rule": rule, "seed": seed, "loops": loops}
        for loops, sign in ((4, 1), (16, -1))
        for rule in ("kl", "latent-difference", "entropy")
        for metric, value in metrics.items()
        for seed in range(5)
    ]
    (first, *_) = decisive().to_dict("records")
    empty = {"signal": None, "target": "unsolved", "scope": "equal solving", **known}
    return pd.DataFrame([{**first, **empty, **row} for row in rows])


@pytest.mark.parametrize(
    ("changes", "verdicts"),
    [
        ({}, ["supported"] * 2),
        ({"rank": 0.0}, ["contradicted", "supported"]),
        ({"solved": -0.05}, ["supported", "contradicted"]),
        ({"saved": 0.1}, ["supported", "contradicted"]),
        ({"over": -0.1}, ["supported", "contradicted"]),
    ],
)
def test_the_claims_on_puzzles_are_decided_at_l_max_and_widened_by_themselves(changes, verdicts):
    rows = pd.concat([decisive(), puzzles(**changes), puzzles(rank=-1.0, trainer="no-ilsd")])
    decisions = decide_all(STUDY, rows, presets=None, smoke=False)
    of_puzzles = [decision for decision in decisions if decision.claim in OF_PUZZLES]
    assert [decision.verdict for decision in of_puzzles] == verdicts
    assert {decision.comparisons for decision in of_puzzles} == {len(OF_PUZZLES)}
    others = [decision for decision in decisions if decision not in of_puzzles]
    assert others == decide_all(STUDY, decisive(), presets=None, smoke=False)


def test_where_no_item_is_solved_nothing_is_saved_at_equal_solving():
    rows = puzzles()
    rows.loc[rows["metric"] == "solved", "value"] = 0.0
    found = [each for each in decide_all(STUDY, rows, presets=None, smoke=False) if each.claim in OF_PUZZLES]
    assert [each.verdict for each in found] == ["inconclusive"] * 2
    assert all("no item is solved" in each.reason for each in found)


def test_a_rule_that_could_not_be_told_leaves_no_verdict():
    rows = puzzles()
    rows = rows[~((rows["rule"] == "latent-difference") & (rows["seed"] == 2))]
    (later,) = [each for each in decide_all(STUDY, rows, presets=None, smoke=False) if each.claim == OF_PUZZLES[0]]
    assert (later.verdict, "seeds [2] lack one side" in later.reason) == ("inconclusive", True)


def test_a_seed_that_lacks_a_result_is_named_and_leaves_no_verdict():
    rows = decisive()
    rows = rows[~((rows["signal"] == "convergence") & (rows["seed"] == 3))]
    shown = STUDY.evidence(rows)["exit-convergence"][Cell("masked", "latin", "torch")]
    assert shown.absent == {"auroc": [3]}
    assert [decision.verdict for decision in decide_all(STUDY, rows, presets=None, smoke=False)][1] == "inconclusive"


@pytest.fixture(scope="module")
def of_elt():
    return measured(Arm("elt"), samples=180, sampling={"steps": 2})[0].assign(role="main")


@pytest.mark.slow
def test_the_example_of_the_page_reads_the_curves_of_what_is_measured(of_elt, monkeypatch):
    page = (Path(__file__).parents[3] / "docs" / "disagreement.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    monkeypatch.setattr("eltbench.load_rows", lambda folder: of_elt)
    space: dict = {}
    exec(example, space)
    assert space["risk"]["masked", "oracle", 0.1] < space["risk"]["masked", "entropy", 0.1]
    assert space["along"].loc["masked", "fixed", 0]["loops_per_batch"].tolist() == [3, 3]


@pytest.mark.slow
def test_the_summary_has_one_line_a_score_over_all_seeds_and_the_figure_a_row_a_world(of_elt):
    first = of_elt
    rows = pd.concat([first.assign(seed=seed, study="disagreement", preset="made-up") for seed in range(2)])
    table = STUDY.summarise(rows)
    assert set(table["seeds"]) == {2}
    assert not table.duplicated(disagreement.disagreement_tables.COLUMNS[:17]).any()
    at = (
        (first["signal"] == "entropy")
        & (first["metric"] == "auroc")
        & (first["loops"] == 3)
        & (first["scope"] == "within")
    )
    line = (table["signal"] == "entropy") & (table["metric"] == "auroc") & (table["scope"] == "within")
    assert np.array_equal(table[line].sort_values("target")["mean"], first[at].sort_values("target")["value"])
    assert len(STUDY.figure(rows).axes) == 4
    assert "risk_at_coverage" not in set(table["metric"])


def test_an_arm_trained_with_dropout_is_asked_with_dropout_left_on():
    jobs = STUDY.plan(load_preset("disagreement", "digits-dropout"))
    passes = {(job.keys["role"], job.run.task): job.settings["dropout_passes"] for job in jobs}
    assert {role: {passes[role, task] for task in ("diffusion", "masked")} for role in ("main", "dropout")} == {
        "main": {0},
        "dropout": {8},
    }
    assert len({job.run_id for job in jobs}) == len(jobs) == 20
    shared = {job.run_id for job in STUDY.plan(load_preset("disagreement", "digits"))}
    assert len({job.run_id for job in jobs} - shared) == 10  # trainings of its own


@pytest.mark.slow
def test_a_model_trained_with_dropout_has_its_passes_among_the_signals_and_contenders():
    rows, _ = measured(Arm("elt", "dropout", {"dropout": 0.1}), heldout_draws=1)
    assert {"dropout_entropy", "dropout_information"} <= set(rows["signal"])
    assert "dropout" in set(rows[rows["metric"] == "auroc_gain"]["signal"])


@pytest.mark.slow
def test_the_command_trains_every_companion_before_it_measures(tmp_path, capsys):
    (tmp_path / "mine.toml").write_text(
        """
        [mine]
        seeds = [1]
        architecture = { unique_layers = 1, max_loops = 2, width = 8, heads = 2, block = "bert" }
        optimisation = { steps = 2, batch_size = 8, warmup_steps = 1 }
        measurement = { heldout_draws = 1, strata = 2, ensemble = 2, splits = 2 }
        worlds = [{ task = "masked", dataset = "latin" }]
        arms = [{ trainer = "elt" }]
        """
    )
    asked = ["--preset", str(tmp_path / "mine.toml"), "--runs", str(tmp_path / "runs"), "--workers", "1"]
    assert command.main("disagreement", [*asked, "--results", str(tmp_path / "results")]) == 0
    rows = results.load_rows(tmp_path / "results")
    assert set(rows["seed"]) == {1}  # the companion is trained and not measured
    assert len(list((tmp_path / "runs").glob("*/checkpoint.safetensors"))) == 2
    assert "ensemble_entropy" in set(rows["signal"])
    assert command.main("disagreement", [*asked, "--results", str(tmp_path / "results")]) == 0
    assert '"runs_done": 0, "runs_cached": 1' in capsys.readouterr().out
