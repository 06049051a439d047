"""Presets: TOML that plans runs, or a refusal that says what to write instead."""

from __future__ import annotations

import fnmatch
import importlib
import json
import re
import sys
import tomllib
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest

import eltbench
from eltbench import studies
from eltbench.studies.presets import Arm, Preset, load_preset, preset_names

STUDY = studies.create("extrapolation")
REPOSITORY = Path(eltbench.__file__).parents[1]
SMALLEST = """
[{name}]
architecture = {{ unique_layers = 1, max_loops = 2, width = 8, heads = 2 }}
worlds = [{{ task = "diffusion", dataset = "digits" }}]
arms = [{{ trainer = "elt" }}]
"""


@pytest.fixture
def written(tmp_path):
    """Write TOML and give the name that loads preset NAME of it."""

    def write(text: str, name: str = "") -> str:
        (tmp_path / "mine.toml").write_text(text)
        return f"{tmp_path / 'mine.toml'}" + (f":{name}" if name else "")

    return write


def refused(name_or_path, **narrowing):
    with pytest.raises(ValueError, match=r".") as refusal:
        STUDY.plan(load_preset("extrapolation", name_or_path).narrowed(**narrowing))
    return str(refusal.value)


# What is packaged


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


# How a preset is put together


def test_extends_merges_tables_key_by_key_and_replaces_the_rest(written):
    text = SMALLEST.format(name="small") + (
        '\n[large]\nextends = "small"\nseeds = [4, 7]\narchitecture = { width = 16 }\n'
        'arms = [{ trainer = "no-ilsd" }]\noptimisation = { steps = 5 }\n'
        '\n[larger]\nextends = "large"\narchitecture = { heads = 4 }\n'
    )
    small, large, larger = (load_preset("extrapolation", written(text, name)) for name in ("small", "large", "larger"))
    assert large.architecture == {**small.architecture, "width": 16}
    assert larger.architecture == {**small.architecture, "width": 16, "heads": 4}
    assert large.optimisation == {"steps": 5}
    assert (small.seeds, large.seeds) == ((0, 1, 2), (4, 7))
    assert [arm.trainer for arm in large.arms] == ["no-ilsd"]
    assert large.worlds == small.worlds
    assert (small.name, larger.name) == ("small", "larger")


def test_an_arm_wins_over_its_world_and_a_world_over_the_preset(written):
    preset = load_preset(
        "extrapolation",
        written("""
[mine]
architecture = { width = 8, heads = 2, max_loops = 2, unique_layers = 1 }
optimisation = { steps = 3, batch_size = 4 }
arms = [{ trainer = "elt", architecture = { max_loops = 5 } }]

[[mine.worlds]]
task = "diffusion"
dataset = "digits"
architecture = { width = 16, max_loops = 3 }
optimisation = { steps = 7 }
"""),
    )
    run = preset.run(preset.worlds[0], preset.arms[0], seed=2)
    shape = run.architecture
    assert (shape.unique_layers, shape.width, shape.max_loops) == (1, 16, 5)
    assert (run.optimisation.steps, run.optimisation.batch_size, run.seed) == (7, 4, 2)


def test_a_number_of_seeds_means_the_first_ones_and_twins_count_once(written):
    for given, seeds in (("2", (0, 1)), ("[3, 1, 3]", (3, 1))):
        preset = load_preset("extrapolation", written(SMALLEST.format(name="mine") + f"seeds = {given}"))
        assert preset.seeds == seeds


def test_a_file_with_one_preset_needs_no_name_and_a_file_with_several_does(written):
    one = SMALLEST.format(name="mine")
    assert load_preset("extrapolation", written(one)) == load_preset("extrapolation", written(one, "mine"))
    several = one + SMALLEST.format(name="other")
    message = refused(written(several))
    assert "holds ['mine', 'other']; name one as" in message
    assert "mine.toml:NAME" in message
    assert load_preset("extrapolation", written(several, "other")).name == "other"


# Narrowing


def test_narrowing_keeps_the_named_tasks_trainers_and_seeds_with_their_controls():
    preset = load_preset("extrapolation", "digits")
    narrowed = preset.narrowed(tasks=("masked",), trainers=("elt", "no-ilsd"), seeds=(9,))
    assert [world.task for world in narrowed.worlds] == ["masked"]
    assert [arm.role for arm in narrowed.arms] == ["main", "main", "dedicated", "dedicated"]
    assert narrowed.seeds == (9,)
    assert preset.narrowed() == preset


def test_plus_adds_a_trainer_to_the_presets_own():
    preset = load_preset("extrapolation", "quick")
    added = preset.narrowed(trainers=("+universal-transformer",))
    assert added.arms == (*preset.arms, Arm("universal-transformer"))
    alone = preset.narrowed(trainers=("elt", "+universal-transformer"))
    assert [arm.trainer for arm in alone.arms] == ["elt", "universal-transformer"]


def test_an_added_trainer_brings_what_its_network_needs_unless_the_preset_says_otherwise():
    preset = load_preset("extrapolation", "smoke")
    (world, *_), injected = preset.worlds, {"input_injection": True}
    (added,) = preset.narrowed(trainers=("+deq",)).arms[len(preset.arms) :]
    assert preset.run(world, added, 0).architecture.input_injection
    for arm in preset.arms:
        assert not preset.run(world, arm, 0).architecture.input_injection
    refused = {"input_injection": False}
    assert not replace(preset, architecture=refused).run(world, added, 0).architecture.input_injection
    assert not preset.run(replace(world, architecture=refused), added, 0).architecture.input_injection
    assert preset.run(replace(world, architecture=refused), Arm("deq", architecture=injected), 0).architecture == (
        preset.run(world, added, 0).architecture
    )
    STUDY.plan(preset.narrowed(trainers=("+deq",)))  # in every world, near-sighted ones too


# Refusals


def test_unknown_names_are_refused_with_the_near_miss(written):
    assert "did you mean 'quick'?" in refused("qiuck")
    assert "unknown task of preset 'quick' 'difusion'; did you mean 'diffusion'?" in refused(
        "quick", tasks=("difusion",)
    )
    message = refused("quick", trainers=("etl",))
    assert "did you mean 'elt'?" in message
    assert "+" not in message


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ("deq", "known: elt, no-ilsd; add one with +deq"),
        ("my_trainer:Mine", "; add one with +my_trainer:Mine"),
        ("deqq", "; did you mean +deq, which adds one?"),
        ("deep-supervison", "; did you mean +deep-supervision, which adds one?"),
        ("xyz", "; add one with +NAME, of deep-supervision, deq, "),
    ],
)
def test_a_trainer_that_a_preset_lacks_can_be_added_by_the_name_that_it_has(given, advice):
    preset = Preset("made-up", arms=(Arm("elt"), Arm("no-ilsd")))
    with pytest.raises(ValueError, match="unknown trainer of preset 'made-up'") as refusal:
        preset.narrowed(trainers=(given,))
    assert advice in str(refusal.value)


def test_a_trainer_to_add_is_refused_with_the_near_miss():
    assert "unknown trainer 'universal'; did you mean 'universal-transformer'?" in refused(
        "quick", trainers=("+universal",)
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("sedes = 3", "unknown preset field 'sedes'; did you mean 'seeds'?"),
        ("optimisation = { step = 3 }", "unknown optimisation field 'step'; did you mean 'steps'?"),
        ("measurement = { sample = 3 }", "unknown measurement field 'sample'; did you mean 'samples'?"),
        ("measurement = { sampling = { step = 3 } }", "'step'; did you mean 'steps'?"),
        ("measurement = { samples = 3 }", "samples must be 0 or at least 5, given 3"),
        ("measurement = { heldout_draws = 0 }", "heldout_draws must be at least 1, given 0"),
        ("measurement = { heldout_draws = 1000000000 }", "heldout_draws must be at most 10,000, given 1,000,000,000"),
        ("measurement = { sample_loops = 4 }", "sample_loops is given as 4"),
        ("optimisation = 3", "optimisation is given as 3"),
        ('backend = "trch"', "unknown backend 'trch'; did you mean 'torch'?"),
        ('precision = "fp8"', "precision must be 'fp32' or 'bf16', given 'fp8'"),
        ("threads = 0", "threads must be at least 1, given 0"),
        ("seeds = 0", "plans no run"),
        ("seeds = [0, -1]", r"seeds must be a number of seeds or a list of them, given [0, -1]"),
        ("seeds = 1000000000", "give at most 10,000 seeds, given 1,000,000,000"),
        ("seeds = true", "seeds must be a number of seeds or a list of them, given True"),
        ('seeds = "3"', "seeds must be a number of seeds or a list of them, given '3'"),
        ('extends = "mien"', "unknown preset of extrapolation 'mien'; did you mean 'mine'?"),
        ('extends = "mine"', "in a circle: mine → mine"),
        ("extends = 3", "preset 'mine': extends must name another preset, given 3"),
        ('name = "../../x"', "preset: a name begins with a letter or digit"),
    ],
)
def test_what_a_preset_cannot_say_is_refused_before_any_training(written, line, message):
    assert message in refused(written(SMALLEST.format(name="mine") + line))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('task = "diffusion"', 'task = "difusion"', "unknown task 'difusion'; did you mean 'diffusion'?"),
        ('dataset = "digits"', 'dataset = "digit"', "unknown dataset 'digit'; did you mean 'digits'?"),
        ('dataset = "digits"', 'dataset = "relay"', "works on continuous data"),
        ('dataset = "digits"', 'data = "digits"', "unknown world field 'data'; did you mean 'dataset'?"),
        (', dataset = "digits"', "", "world: dataset is missing, given task"),
        ('trainer = "elt"', 'trainer = "etl"', "unknown trainer 'etl'; did you mean 'elt'?"),
        ('trainer = "elt"', 'trainer = "elt", rol = "main"', "unknown arm field 'rol'; did you mean 'role'?"),
        ('trainer = "elt"', 'trainer = "elt", architecture = 3', "arm: architecture is given as 3"),
        ('{ trainer = "elt" }', '"elt"', "arms must be a list of tables"),
        ("heads = 2", "heads = 3", "heads must divide width, given width 8 and heads 3"),
        ("max_loops = 2", "max_loops = 10000000", "max_loops must be at most 1024, given 10000000"),
        ("max_loops = 2", "max_loops = 1", "min_loops must be below max_loops, given 1 = 1"),
        ("width = 8", "widht = 8", "unknown architecture field 'widht'; did you mean 'width'?"),
        ('{ trainer = "elt" }', '{ trainer = "elt" }, { trainer = "elt" }', "could not tell apart: elt diffusion"),
        (
            '{ trainer = "elt" }',
            '{ trainer = "elt" }, { trainer = "elt", architecture = { unique_layers = 2 } }',
            "give a further size of a trainer a role of its own",
        ),
    ],
)
def test_impossible_worlds_and_arms_are_refused_before_any_training(written, old, new, message):
    text = SMALLEST.format(name="mine")
    assert old in text
    assert message in refused(written(text.replace(old, new)))


def test_a_further_size_with_a_role_of_its_own_is_planned(written):
    arms = '{ trainer = "elt" }, { trainer = "elt", role = "two-layers", architecture = { unique_layers = 2 } }'
    preset = load_preset("extrapolation", written(SMALLEST.format(name="mine").replace('{ trainer = "elt" }', arms)))
    assert len(STUDY.plan(preset)) == 6


@pytest.mark.parametrize("text", ["[mine", "mine = 3"])
def test_a_file_that_holds_no_presets_is_refused(written, text):
    assert "mine" in refused(written(text))


@pytest.mark.parametrize(
    "name", ["../../x", "/tmp/x", ".", "..", "", "a/b", "a\\b", "a\nb", "a\x1b[1m", "-x", ".x", "a b", "é", "x" * 65]
)
def test_a_name_that_is_no_plain_folder_is_refused(written, name):
    with pytest.raises(ValueError, match="a name begins with a letter or digit"):
        Preset(name)
    if name:
        assert "a name begins with a letter or digit" in refused(written(SMALLEST.format(name=json.dumps(name)), name))


def test_a_name_of_letters_digits_dashes_underscores_and_points_is_taken():
    assert Preset("1.a-B_" + "x" * 58).name.startswith("1.a-B_")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a = " + b"[" * 100_000, "is nested too deeply"),
        (b"a = " + b"{a=" * 100_000, "is nested too deeply"),
        ("[mine]".encode("utf-16"), "is not UTF-8"),
        (b"[mine]\nname = '\xff'", "is not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_in_plain_words(tmp_path, content, message):
    (tmp_path / "mine.toml").write_bytes(content)
    assert message in refused(f"{tmp_path / 'mine.toml'}")


def test_a_folder_is_no_preset_file(tmp_path):
    (tmp_path / "mine.toml").mkdir()
    assert "mine.toml: " in refused(f"{tmp_path / 'mine.toml'}")


def test_a_byte_order_mark_does_no_harm(tmp_path):
    (tmp_path / "mine.toml").write_text("\ufeff" + SMALLEST.format(name="mine"), encoding="utf-8")
    assert load_preset("extrapolation", f"{tmp_path / 'mine.toml'}").name == "mine"


def test_a_file_that_is_not_there_is_refused():
    assert "preset file nowhere.toml: " in refused("nowhere.toml:mine")


def test_a_study_of_a_plugin_has_no_packaged_presets():
    assert preset_names("someone-elses") == []
    with pytest.raises(ValueError, match="unknown preset of someone-elses 'quick'; known: none"):
        load_preset("someone-elses", "quick")


def test_a_preset_without_runs_is_refused():
    with pytest.raises(ValueError, match="preset 'empty' plans no run: it needs worlds, arms and seeds"):
        STUDY.plan(Preset("empty"))
    with pytest.raises(ValueError, match="plans no run"):
        STUDY.plan(replace(load_preset("extrapolation", "quick"), seeds=()))


@pytest.mark.slow
@pytest.mark.parametrize("study", ["extrapolation", "depth_grid", "convergence", "disagreement"])
def test_no_two_runs_of_a_packaged_preset_have_one_name(study):
    for name in preset_names(study):
        preset = load_preset(study, name)
        jobs = [job for of in (preset, replace(preset, backend="jax")) for job in studies.create(study).plan(of)]
        assert len({job.name for job in jobs}) == len({job.run_id for job in jobs})


def test_a_name_says_what_sets_relay_worlds_and_widths_apart():
    relay = {job.model for job in studies.create("depth_grid").plan(load_preset("depth_grid", "relay"))}
    assert "elt masked relay 2N×4L block=bert attention_radius=1" in relay
    assert "elt masked relay (colours=24 gates=24) 2N×4L block=bert attention_radius=1" in relay
    widths = {job.model for job in studies.create("depth_grid").plan(load_preset("depth_grid", "widths"))}
    assert {f"elt diffusion digits 2N×4L{width}" for width in (" width=32", "", " width=128")} <= widths


# A study of the user's own


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"claims": ("elastic",)}, "its claims are of evidence.claims.Claim, given 'elastic'"),
        (
            {"claims": (replace(STUDY.claims[0], needs=({"trianer": "elt"},)),)},
            "unknown column in the needs of claim 'elastic' 'trianer'; did you mean 'trainer'?",
        ),
        ({"compared_within": ("task", "size")}, "unknown column in compared_within 'size'; "),
    ],
)
def test_what_a_study_says_of_its_claims_is_checked_before_any_training(changes, message):
    mine = type("Mine", (type(STUDY),), changes)()
    with pytest.raises(ValueError, match=f"^study 'extrapolation': {re.escape(message)}"):
        mine.plan(load_preset("extrapolation", "quick"))


def test_a_measurement_by_a_study_of_the_same_name_in_another_project_is_another(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    preset, digests = load_preset("extrapolation", "quick"), []
    for number, extra in enumerate(("", "", "    draws = 2\n")):
        text = "from eltbench.studies.extrapolation.study import Extrapolation\n\n\n"
        text += "class Mine(Extrapolation):\n    version = 1\n"
        (tmp_path / f"own_study_{number}.py").write_text(text + extra)
        mine = importlib.import_module(f"own_study_{number}").Mine()
        digests.append({job.digest for job in mine.plan(preset)})
    first, same, other = digests
    assert first == same
    assert not first & other
