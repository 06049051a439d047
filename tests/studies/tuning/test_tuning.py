"""Tuning: what is chosen and by which seeds, what the claims compare, and plans that cannot be."""

from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd
import pytest
from synthetic_rows import frame

from eltbench import studies
from eltbench.cli.main import main
from eltbench.evidence import figures
from eltbench.studies.deciding import decide_all
from eltbench.studies.presets import load_preset, preset_names
from eltbench.studies.tuning import choosing, sensitivity

STUDY = studies.create("tuning")
RATES = (0.002, 0.004, 0.008)
SEEDS = 3


def curve(trainer="elt", scale="none", losses=(1.2, 1.0, 1.1), spread=0.001, **known):
    """Validation losses at L_max by rate, of three seeds that differ a little."""
    model = {"trainer": trainer, "task": "masked", "dataset": "latin", "max_loops": 4, **known}
    setting = {"schedule": "cosine", "steps": 600, "residual_scale": scale, "residual_strength": 1.0, "norm": "pre"}
    about = {"metric": "heldout_loss", "split": "validation", "higher_is_better": False}
    return [
        {
            **about,
            **model,
            **setting,
            "learning_rate": rate,
            "loops": model["max_loops"],
            "seed": seed,
            "value": loss * math.exp(spread * (seed - 1) * (1 + position)),
        }
        for position, (rate, loss) in enumerate(zip(RATES, losses, strict=True))
        for seed in range(SEEDS)
    ]


def table(*parts) -> pd.DataFrame:
    return frame([row for part in parts for row in part], STUDY.columns)


def verdicts(rows: pd.DataFrame) -> dict:
    return {decision.claim.id: decision for decision in decide_all(STUDY, rows, presets=None, smoke=False)}


def effect(decision, condition: str) -> float:
    (cell,) = decision.cells
    (found,) = (each for each in cell.conditions if each.condition.name == condition)
    return found.primary.interval.estimate


def test_the_setting_of_the_lowest_mean_is_chosen():
    (choice,) = choosing.choices(table(curve(), curve(scale="loops", losses=(1.3, 0.97, 0.95))))
    assert choice.model["trainer"] == "elt"
    assert (choice.setting["learning_rate"], choice.setting["residual_scale"]) == (0.008, "loops")
    assert choosing.said(*choice) == (
        'masked latin: elt 2N×4L: learning_rate = 0.008, residual_scale = "loops"; its rate is at an end of those tried'
    )


def test_a_setting_that_failed_in_one_seed_is_not_chosen():
    rows = table(curve(losses=(1.2, 1.0, 0.5)))
    rows.loc[(rows["learning_rate"] == 0.008) & (rows["seed"] == 1), "value"] = math.nan
    (choice,) = choosing.choices(rows)
    assert choice.setting["learning_rate"] == 0.004
    (choice,) = choosing.choices(rows[rows["value"].notna()])
    assert choice.setting["learning_rate"] == 0.004


def test_no_seed_chooses_for_itself():
    """Each seed is best at a rate of its own; chosen by the other two, none gets it."""
    own = {
        rate: {seed: 0.5 if seed == place else 1.0 + seed / 10 for seed in range(SEEDS)}
        for place, rate in enumerate(RATES)
    }
    rows = table(curve())
    rows["value"] = [own[rate][seed] for rate, seed in zip(rows["learning_rate"], rows["seed"], strict=True)]
    losses = choosing.by_setting(rows)
    assert (choosing.chosen_by_others(losses, losses) >= 1).all()


@pytest.mark.parametrize(("best", "verdict"), [(0.9, "supported"), (1.1, "contradicted")])
def test_the_scale_helps_or_not_each_side_at_its_best_rate(best, verdict):
    sides = [
        curve(trainer, *side)
        for trainer in ("elt", "no-ilsd")
        for side in (("none", (1.2, 1.0, 1.1)), ("loops", (1.3, 1.2, best)))
    ]
    decision = verdicts(table(*sides))["loop-needs-scale"]
    assert decision.verdict == verdict
    for trainer in ("elt", "no-ilsd"):
        assert effect(decision, trainer) == pytest.approx(math.log(best), abs=1e-6)


def test_the_scale_is_not_judged_where_one_side_is_missing():
    assert verdicts(table(curve(), curve(scale="loops")))["loop-needs-scale"].cells == ()
    assert verdicts(table(curve(), curve("no-ilsd")))["loop-needs-scale"].cells == ()


@pytest.mark.parametrize(
    ("many", "verdict", "ratio"),
    [((1.2, 1.0, 1.1), "supported", 1.0), ((1.0, 1.2, 1.1), "contradicted", 1.2)],
)
def test_the_rate_of_few_loops_holds_at_many_or_not(many, verdict, ratio):
    few, other = (
        curve("no-ilsd", "loops", losses, role=f"{loops}-loops", max_loops=loops)
        for loops, losses in ((2, (1.2, 1.0, 1.1)), (8, many))
    )
    decision = verdicts(table(few, other))["rate-transfer"]
    assert decision.verdict == verdict
    assert effect(decision, "scaled") == pytest.approx(math.log(ratio), abs=0.01)


def test_a_rate_is_transferred_within_one_block_and_a_model_in_two_roles_counts_once():
    few, many = (curve("no-ilsd", "loops", role=f"{loops}-loops", max_loops=loops) for loops in (2, 8))
    twice = curve("no-ilsd", "loops", max_loops=8)
    assert verdicts(table(few, many, twice))["rate-transfer"].verdict == "supported"
    other_block = curve("no-ilsd", "loops", role="one-layer", max_loops=8, unique_layers=1)
    assert verdicts(table(few, many, other_block))["rate-transfer"].cells == ()


def test_two_widths_in_one_role_are_refused_before_training():
    preset = load_preset("tuning", "smoke")
    wide = replace(preset.arms[0], architecture={"width": 32})
    with pytest.raises(ValueError, match="give a further size of a trainer a role of its own"):
        STUDY.plan(replace(preset, arms=(*preset.arms, wide)))
    assert STUDY.plan(replace(preset, arms=(*preset.arms, replace(wide, role="wide"))))


def test_models_are_held_to_have_learned_with_their_chosen_settings_alone():
    rows = table(curve(losses=(9.0, 1.0, 1.1)), curve("no-ilsd", losses=(1.0, 9.0, 9.0)))
    ends = STUDY.final_losses(rows)
    assert sorted(ends["learning_rate"].unique()) == [0.002, 0.004]
    assert (ends["value"] < 2).all()


def test_the_summary_says_how_far_each_setting_is_above_the_choice():
    found = choosing.summary(table(curve(spread=0.0), curve(scale="loops", losses=(1.3, 1.2, 0.9), spread=0.0)))
    assert found[found["chosen"]][["learning_rate", "residual_scale"]].to_numpy().tolist() == [[0.008, "loops"]]
    above = found.set_index(["residual_scale", "learning_rate"])["above_chosen_percent"]
    assert above["none", 0.004] == pytest.approx(100 * (1 / 0.9 - 1))
    assert above["loops", 0.008] == 0


def test_a_setting_s_worth_is_the_best_loss_without_it_over_the_choice():
    found = choosing.summary(table(curve(spread=0.0), curve(scale="loops", losses=(1.3, 1.2, 0.9), spread=0.0)))
    worth = {(name, value): percent for name, value, percent in sensitivity.others(found)}
    assert worth == {
        ("learning_rate", 0.002): pytest.approx(100 * (1.2 / 0.9 - 1)),
        ("learning_rate", 0.004): pytest.approx(100 * (1.0 / 0.9 - 1)),
        ("residual_scale", "none"): pytest.approx(100 * (1.0 / 0.9 - 1)),
    }
    assert "| `elt` 2N×4L | rate 0.008, scale loops | 0.9000" in sensitivity.markdown(found)


@pytest.mark.slow
def test_the_figure_has_a_panel_a_model_and_marks_each_choice():
    rows = table(curve(), curve(scale="loops"), curve("no-ilsd"), curve("no-ilsd", dataset="relay"))
    drawn = [axis for axis in STUDY.figure(rows).axes if axis.axison]
    assert len(drawn) == 3
    for axis in drawn:
        (star,) = (line for line in axis.lines if line.get_marker() == "*")
        assert (star.get_xdata()[0], star.get_ydata()[0]) == (0.004, pytest.approx(1.0, abs=0.01))
    with figures.plain():
        drawn[0].figure.canvas.draw()


# Plans


@pytest.mark.parametrize("name", preset_names("tuning"))
def test_every_arm_is_planned_with_every_setting_of_the_sweep(name):
    preset = load_preset("tuning", name)
    jobs = STUDY.plan(preset)
    for arm in preset.arms:
        left = [values for name, values in preset.sweep.items() if name not in arm.architecture]
        own = [job for job in jobs if (job.run.trainer, job.keys["role"]) == (arm.trainer, arm.role)]
        assert len(own) == math.prod(map(len, left)) * len(preset.seeds) * len(preset.worlds)
    assert len({job.run_id for job in jobs}) == len(jobs)
    assert all(job.run.validation for job in jobs)


def test_a_preset_says_which_items_it_measures():
    with pytest.raises(ValueError, match="study 'tuning' measures validation items; set validation = true"):
        STUDY.plan(replace(load_preset("tuning", "smoke"), validation=False))
    with pytest.raises(ValueError, match="study 'extrapolation' measures held-out items; set validation = false"):
        studies.create("extrapolation").plan(replace(load_preset("extrapolation", "smoke"), validation=True))


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        ({"learning_rat": [1e-3]}, "unknown setting in sweep 'learning_rat'; did you mean 'learning_rate'"),
        ({"learning_rate": []}, "sweep.learning_rate must be a list of values, given"),
        ({"learning_rate": 1e-3}, "sweep.learning_rate must be a list of values, given 0.001"),
        ({"learning_rate": ["fast"]}, "learning_rate"),
        ({"width": [8, 16]}, "unknown setting in sweep 'width'"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused(sweep, said):
    with pytest.raises(ValueError, match=said):
        STUDY.plan(replace(load_preset("tuning", "smoke"), sweep=sweep))


@pytest.mark.slow
def test_the_command_chooses_and_publishes(tmp_path, capsys):
    places = ["--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    assert main(["tune", "--preset", "smoke", "--trainers", "elt", *places]) == 0
    printed = capsys.readouterr().out
    assert "masked latin: elt 1N×2L: learning_rate = 0.00" in printed
    folder = tmp_path / "results" / "tuning" / "smoke"
    assert set(pd.read_parquet(folder / "rows.parquet")["split"]) == {"validation"}
    assert pd.read_csv(folder / "summary.csv")["chosen"].sum() == 3  # one setting, at three exits
