"""The presets of extrapolation beside `digits`: which runs they share with it, and what sets the others apart."""

from __future__ import annotations

import tomllib
from dataclasses import replace

import pytest

from eltbench import studies
from eltbench.studies.presets import load_preset

STUDY = studies.create("extrapolation")
SMALLEST = """
[mine]
architecture = { unique_layers = 1, max_loops = 2, width = 8, heads = 2 }
worlds = [{ task = "diffusion", dataset = "digits" }]
arms = [{ trainer = "elt" }]
"""


def written(folder, text):
    """The name that loads the one preset of this TOML."""
    (folder / "mine.toml").write_text(text)
    return str(folder / "mine.toml")


def jobs_of(name):
    return STUDY.plan(load_preset("extrapolation", name))


def planned(jobs):
    """What tells a job: the run, its role, and everything that is measured."""
    return {(job.run_id, job.keys["role"], job.digest) for job in jobs}


def test_digits_toggles_varies_one_thing_at_a_time_beside_the_very_elt_of_digits():
    jobs = jobs_of("digits-toggles")
    digits = [job for job in jobs_of("digits") if job.run.task == "diffusion"]
    plain = [job for job in jobs if job.keys["role"] == "main"]
    assert planned(plain) == planned(job for job in digits if job.run.trainer == "elt")
    assert {job.run.trainer for job in jobs} == {"elt"}
    assert {job.digest for job in jobs} == {job.digest for job in plain}  # all are measured alike
    changes = {
        "main": {},
        "input-injection": {"input_injection": True},
        "sandwich-norm": {"norm": "sandwich"},
        "injection+sandwich": {"input_injection": True, "norm": "sandwich"},
        "loop-embedding": {"loop_embedding": True},
        "loop-adapters": {"loop_adapter_rank": 4},
    }
    expected = {
        (role, replace(job.run, architecture=replace(job.run.architecture, **change)))
        for role, change in changes.items()
        for job in plain
    }
    assert {(job.keys["role"], job.run) for job in jobs} == expected
    assert len(plain) == 5


def test_sudoku_toggles_shares_its_elt_and_its_recall_with_sudoku():
    names = "sudoku-toggles", "sudoku"
    toggles, sudoku = ({(job.run_id, job.keys["role"]) for job in jobs_of(name)} for name in names)
    assert {role for _, role in toggles & sudoku} == {"main", "recall"}
    assert len(toggles & sudoku) == 10
    assert len({run for run, _ in toggles}) == 30


def test_digits_rivals_supervises_otherwise_beside_the_very_elt_and_no_ilsd_of_digits():
    jobs = jobs_of("digits-rivals")
    digits = [job for job in jobs_of("digits") if job.run.task == "diffusion"]
    shared = [job for job in jobs if job.run.trainer in ("elt", "no-ilsd")]
    main = [job for job in digits if job.keys["role"] == "main" and job.run.trainer in ("elt", "no-ilsd")]
    assert planned(shared) == planned(main)
    assert len(shared) == 10
    arms = {(job.run.trainer, job.keys["role"], job.run.trainer_options) for job in jobs}
    assert arms == {
        ("elt", "main", ()),
        ("no-ilsd", "main", ()),
        ("deep-supervision", "main", ()),
        ("deep-supervision", "final-weighted", (("weighting", "final"),)),
        ("random-loops", "main", ()),
        ("deq", "main", ()),
        ("deq", "12-iterations", ()),
    }

    def plain(run):
        return replace(
            run, trainer="", trainer_options=(), architecture=replace(run.architecture, input_injection=False)
        )

    longer = [job for job in jobs if job.run.architecture.max_loops != 4]
    assert {(job.keys["role"], job.run.architecture.max_loops) for job in longer} == {("12-iterations", 12)}
    rest = {plain(job.run) for job in jobs if job not in longer}
    assert rest == {plain(job.run) for job in shared}  # else they are alike
    assert {job.run.trainer for job in jobs if job.run.architecture.input_injection} == {"deq"}  # which needs it


SWEEPABLE = {
    "input_injection": "true",
    "norm": '"sandwich"',
    "loop_embedding": "true",
    "loop_conditioning": "true",
    "loop_adapter_rank": "2",
    "attention_radius": "1",
    "prelude": "1",
    "coda": "2",
    "positions": '"rotary"',
}


@pytest.mark.parametrize("field", SWEEPABLE)
def test_every_toggle_of_the_architecture_can_be_swept_from_a_preset(field, tmp_path):
    toggled = f'{{ trainer = "elt", role = "toggled", architecture = {{ {field} = {SWEEPABLE[field]} }} }}'
    text = SMALLEST.replace('{ trainer = "elt" }', f'{{ trainer = "elt" }}, {toggled}')
    plain, toggled = STUDY.plan(load_preset("extrapolation", written(tmp_path, text + "seeds = 1")))
    value = tomllib.loads(f"value = {SWEEPABLE[field]}")["value"]
    assert toggled.run == replace(plain.run, architecture=replace(plain.run.architecture, **{field: value}))
    assert toggled.run_id != plain.run_id


@pytest.mark.parametrize(
    ("option", "said"), [("loop_adapter_rank = 2", "no loops to adapt"), ("prelude = 1", "no loop to stand before")]
)
def test_what_belongs_to_a_loop_is_refused_at_unique_depth_before_any_training(option, said, tmp_path):
    arm = f'{{ trainer = "unique-depth", architecture = {{ max_loops = 1, {option} }} }}'
    with pytest.raises(ValueError, match=said):
        STUDY.plan(load_preset("extrapolation", written(tmp_path, SMALLEST.replace('{ trainer = "elt" }', arm))))
