"""What is packaged: presets that plan what their study promises."""

from __future__ import annotations

import fnmatch
import tomllib
from importlib import resources
from pathlib import Path

import pytest
from preset_files import STUDY

import eltbench
from eltbench.studies.extrapolation import harder
from eltbench.studies.presets import load_preset, preset_names

REPOSITORY = Path(eltbench.__file__).parents[1]


@pytest.mark.parametrize("name", preset_names("extrapolation"))
def test_every_packaged_preset_plans_a_run_per_world_arm_and_seed(name):
    preset = load_preset("extrapolation", name)
    jobs = STUDY.plan(preset)
    assert len(jobs) == len(preset.worlds) * len(preset.arms) * len(preset.seeds) > 0
    assert len({job.run_id for job in jobs}) == len(jobs)
    assert preset.about


def test_the_presets_are_those_that_the_study_promises():
    presets = {name: load_preset("extrapolation", name) for name in preset_names("extrapolation")}
    assert {"smoke", "quick", "digits", "relay", "digits-gpu"} <= set(presets)
    assert [name for name, preset in presets.items() if preset.smoke] == ["smoke"]
    quick = presets["quick"]
    assert [(world.task, world.dataset) for world in quick.worlds] == [("diffusion", "digits")]
    assert [(arm.trainer, arm.role) for arm in quick.arms] == [("elt", "main"), ("no-ilsd", "main")]
    assert quick.seeds == (0, 1, 2)
    assert len(presets["digits"].seeds) >= 5
    assert len(presets["relay"].seeds) >= 5
    gpu = presets["digits-gpu"]
    assert (len(gpu.seeds), gpu.device) == (20, "cuda")
    assert gpu.architecture["width"] > presets["digits"].architecture["width"]
    assert gpu.worlds == presets["digits"].worlds


@pytest.mark.parametrize("name", ["sudoku", "maze", "group", "sudoku-gpu", "maze-gpu"])
def test_a_preset_of_puzzles_holds_what_its_claims_compare(name):
    jobs = STUDY.plan(load_preset("extrapolation", name))
    models = {(job.run.trainer, job.keys["role"]) for job in jobs}
    for claim in harder.CLAIMS:
        assert {(model.trainer, model.role) for model in harder.condition_models(claim)} <= models
    depth = {job.keys["role"]: job.run.architecture.effective_depth for job in jobs}
    assert depth["main"] == depth["equal-compute"]
    assert STUDY.open_questions(jobs) == {}
    assert {job.run.device for job in jobs} == {"cuda" if name.endswith("gpu") else "cpu"}


@pytest.mark.parametrize("name", ["digits", "digits-gpu"])
def test_the_digits_presets_hold_every_trainer_and_every_control(name):
    jobs = STUDY.plan(load_preset("extrapolation", name))
    assert {job.run.task for job in jobs} == {"diffusion", "masked"}
    models = {
        (job.run.trainer, job.keys["role"], job.run.architecture.unique_layers, job.run.architecture.max_loops)
        for job in jobs
    }
    assert models == {
        ("elt", "main", 2, 4),
        ("no-ilsd", "main", 2, 4),
        ("universal-transformer", "main", 2, 4),
        ("no-ilsd", "dedicated", 2, 1),
        ("no-ilsd", "dedicated", 2, 2),
        ("unique-depth", "equal-compute", 8, 1),
    }


def test_the_package_carries_its_presets_and_the_papers_numbers():
    for package, pattern in (
        ("eltbench.presets", "extrapolation.toml"),
        ("eltbench.studies.audit.paper", "ucf101_masked.csv"),
    ):
        files = [file.name for file in resources.files(package).iterdir()]
        assert pattern in files


def test_every_package_and_every_data_file_is_declared_for_the_wheel():
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {name: REPOSITORY / folder for name, folder in settings["package-dir"].items()}
    root = folders["eltbench"]
    found = {
        ".".join(("eltbench", *file.parent.relative_to(root).parts)): file.parent for file in root.rglob("__init__.py")
    }
    packages = {**found, "eltbench.presets": folders["eltbench.presets"]}
    assert set(packages) == set(settings["packages"])
    for package, folder in packages.items():
        patterns = settings["package-data"].get(package, [])
        for file in folder.rglob("*"):
            if file.is_dir() or file.suffix in (".py", ".pyc") or _nearest(file, packages.values()) != folder:
                continue
            name = file.relative_to(folder).as_posix()
            assert any(fnmatch.fnmatch(name, pattern) for pattern in patterns), f"{package} does not carry {name}"


def _nearest(file: Path, folders) -> Path:
    return max((folder for folder in folders if file.is_relative_to(folder)), key=lambda folder: len(folder.parts))
