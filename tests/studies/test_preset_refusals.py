"""A preset that plans nothing possible is refused, with what to write instead."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from preset_files import SMALLEST, STUDY, refused

from eltbench.studies.presets import Arm, Preset, load_preset, preset_names


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
