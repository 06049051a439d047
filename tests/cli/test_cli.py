"""The command eltbench: what it lists, trains, draws and refuses, and with which exit code."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from matplotlib.image import imread

import eltbench
from eltbench import backends, data, studies, tasks, trainers
from eltbench.cli import main as cli
from eltbench.core.config import Architecture, Optimisation, Run
from eltbench.evaluation.quality import features
from eltbench.execution.store import RunStore
from eltbench.execution.sweep import Outcome
from eltbench.training.identity import run_id
from eltbench.training.job import Job
from eltbench.training.loop import fit

PRESETS = Path(__file__).parents[2] / "studies"
SIZES = Architecture(unique_layers=1, max_loops=2, width=8, heads=2)
STEPS = Optimisation(steps=2, batch_size=4, warmup_steps=1)
RUNS = {
    "digits": Run("elt", "diffusion", "digits", architecture=SIZES, optimisation=STEPS),
    "relay": Run("elt", "masked", "relay", architecture=SIZES, optimisation=STEPS),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run cache with two trained models."""
    store = RunStore(tmp_path_factory.mktemp("cli") / "runs")
    for run in RUNS.values():
        fit(run, store.directory(run_id(run)))
        store.finish(run, run_id(run), seconds=1.0, resumed=False)
    return store.root


@pytest.fixture
def ask(capsys):
    """Run a command in this process; gives its exit code, stdout and stderr."""

    def run(*arguments):
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as exit:  # a command line that cannot be read
            code = exit.code
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err
        return code, said.out, said.err

    return run


# The front door


def test_without_a_command_it_says_what_there_is(ask):
    code, said, _ = ask()
    assert code == 2
    for command in ("list", "train", "sample", "study", "compare", "doctor"):
        assert f"\n  {command}" in said
    assert ask("--help") == (0, said, "")


@pytest.mark.parametrize(("given", "meant"), [("lst", "list"), ("trian", "train"), ("samples", "sample")])
def test_an_unknown_command_is_refused_with_the_near_miss(ask, given, meant):
    code, said, error = ask(given)
    assert (code, said) == (2, "")
    assert f"unknown command {given!r}; did you mean {meant!r}?" in error


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_it_tells_its_version(ask, flag):
    assert ask(flag) == (0, f"eltbench {eltbench.__version__}\n", "")


HELP = [
    *((command,) for command in cli.COMMANDS),
    *(("runs", action) for action in ("list", "verify", "prune")),
    *(("study", name) for name in studies.names()),
]


@pytest.mark.slow
@pytest.mark.parametrize("command", HELP, ids=" ".join)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_says_what_it_does_and_its_options(ask, command, flag):
    code, said, error = ask(*command, flag)
    assert (code, error) == (0, "")
    usage, empty, does, *options = said.splitlines()
    assert usage.startswith(f"usage: eltbench {' '.join(command).removesuffix(' list') or 'list'}")
    assert (empty, does[:1].isupper()) == ("", True)
    assert any("-h, --help" in line for line in options)


@pytest.mark.parametrize("name", ["extrapolation", "throughput", "audit"])  # of runs, of timings, of tables
@pytest.mark.slow
def test_a_study_as_a_module_explains_itself(name):
    command = [sys.executable, "-m", f"eltbench.studies.{name}", "--help"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.startswith(f"usage: eltbench study {name} ")


@pytest.mark.parametrize("command", ["list", "doctor"])
def test_commands_without_arguments_refuse_them(ask, command):
    code, _, error = ask(command, "please")
    assert code == 2
    assert f"error: {command} takes no arguments, given ['please']" in error


@pytest.mark.slow
def test_the_module_and_its_exit_code_are_those_of_the_command():
    process = subprocess.run(
        [sys.executable, "-m", "eltbench.cli.main", "lst"], capture_output=True, text=True, timeout=60
    )
    assert process.returncode == 2
    assert process.stderr.startswith("error: unknown command 'lst'")
    assert process.stdout == ""


# list and doctor


def test_list_names_everything_that_is_registered(ask):
    code, said, _ = ask("list")
    assert code == 0
    described = dict(line.split(maxsplit=1) for line in said.splitlines() if re.match(r"  \S", line))
    for room in (trainers, tasks, data, backends, studies):
        assert f"{room.registry.plural}:\n" in said
        for name in room.names():
            assert inspect.getdoc(room.get(name)).startswith(described[name].split(". ")[0])
    for name, about in tomllib.loads((PRESETS / "extrapolation.toml").read_text()).items():
        assert f"    {name:16} {about['about']}\n" in said


def test_list_imports_nothing_of_what_it_describes(tmp_path):
    (tmp_path / "shop.py").write_text('raise SystemExit("imported")\nclass Till:\n    """Counts. Well."""\n')
    code = """
import sys
from eltbench import trainers
from eltbench.cli import main as cli
trainers.register("till", "shop:Till")
trainers.register("gone", "nowhere.at.all:Gone")
code = cli.main(["list"])
sys.exit(code or repr({"torch", "jax", "numpy", "pandas", "tyro"} & set(sys.modules) or ""))
"""
    command = [sys.executable, "-c", code]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert process.stderr.strip() == "''"
    assert [line.split(maxsplit=1) for line in process.stdout.splitlines() if line.split()[0] in ("till", "gone")] == [
        ["gone", "nowhere.at.all:Gone"],
        ["till", "Counts."],
    ]


def test_doctor_tells_versions_devices_weights_and_the_cache(ask, runs, monkeypatch):
    monkeypatch.setenv("ELTBENCH_RUNS", str(runs))
    monkeypatch.delenv("ELTBENCH_INCEPTION_WEIGHTS", raising=False)
    monkeypatch.setattr(features, "inception_weights", lambda: None)
    code, said, _ = ask("doctor")
    assert code == 0
    assert f"eltbench {eltbench.__version__}" in said
    assert "  torch " in said
    assert "device " in said
    assert features.DIGITS in said
    assert "no FID, KID or IS" in said
    assert f"run cache: {runs}, 2 finished runs" in said


def test_doctor_survives_a_wrong_path_to_weights_that_no_study_needs(ask, tmp_path, monkeypatch):
    monkeypatch.setenv("ELTBENCH_RUNS", str(tmp_path))
    monkeypatch.setenv("ELTBENCH_INCEPTION_WEIGHTS", str(tmp_path / "nowhere.pth"))
    code, said, _ = ask("doctor")
    assert code == 0
    assert "Inception weights: not usable: no Inception weights at" in said


def test_doctor_exits_with_one_where_a_study_could_not_run(ask, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ELTBENCH_RUNS", str(tmp_path / "file" / "runs"))
    code, said, _ = ask("doctor")
    assert code == 1
    assert "problem: cannot write to" in said


# train

TINY = (
    *("--architecture.unique-layers", 1, "--architecture.max-loops", 2),
    *("--architecture.width", 8, "--architecture.heads", 2),
    *("--optimisation.steps", 2, "--optimisation.batch-size", 4, "--optimisation.warmup-steps", 1),
)


@pytest.mark.slow
def test_train_makes_one_run_and_finds_it_again(ask, tmp_path):
    arguments = ("train", "--trainer", "no-ilsd", *TINY, "--seed", 3, "--runs", tmp_path)
    code, said, error = ask(*arguments)
    run = Run("no-ilsd", "diffusion", "digits", 3, SIZES, STEPS)
    assert (code, said) == (0, run_id(run) + "\n"), error
    assert RunStore(tmp_path).is_cached(Job(run))
    assert eltbench.load_model(run_id(run), runs=tmp_path).run == run
    checkpoint = tmp_path / run_id(run) / "checkpoint.safetensors"
    before = checkpoint.stat().st_mtime_ns
    assert ask(*arguments)[:2] == (0, said)
    assert checkpoint.stat().st_mtime_ns == before  # not trained again


def test_train_takes_options_of_trainer_task_and_dataset(ask, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("eltbench.execution.train.sweep", lambda jobs, store, progress: asked.extend(jobs) or Outcome())
    given = ("trainer.decay=cosine", "trainer.student=false", "dataset.gates=24", "dataset.colours=24")
    options = [word for option in given for word in ("--option", option)]
    code, said, error = ask("train", "--task", "masked", "--dataset", "relay", *options, "--runs", tmp_path)
    run = Run(
        "elt",
        "masked",
        "relay",
        trainer_options=(("decay", "cosine"), ("student", False)),
        dataset_options=(("colours", 24), ("gates", 24)),
    )
    assert (code, said) == (0, run_id(run) + "\n"), error
    assert [job.run for job in asked] == [run]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--trainer", "etl"), "unknown trainer 'etl'; did you mean 'elt'?"),
        (("--task", "mask"), "unknown task 'mask'; did you mean 'masked'?"),
        (("--dataset", "digit"), "unknown dataset 'digit'; did you mean 'digits'?"),
        (("--dataset", "relay"), "task 'diffusion' works on continuous data"),
        (("--backend", "troch"), "unknown backend 'troch'; did you mean 'torch'?"),
        (("--device", "cpuu"), "torch has no device 'cpuu' here; known: cpu"),
        (("--precision", "fp8"), "precision must be 'fp32' or 'bf16', given 'fp8'"),
        (("--threads", 0), "threads must be at least 1, given 0"),
        (("--architecture.min-loops", 4), "min_loops must be below max_loops, given 4 = 4"),
        (("--architecture.min-loops", 5), "min_loops must not exceed max_loops, given 5 > 4"),
        (("--architecture.heads", 3), "heads must divide width"),
        (("--architecture.patch", 3), "patch must divide the grid (8, 8), given patch 3"),
        (("--trainer", "unique-depth"), "give max_loops = 1"),
        (("--steps", 3), "--optimisation.steps"),
        (("--option", "trainer.decey=cosine"), "unknown trainer 'elt' field 'decey'; did you mean 'decay'?"),
        (("--option", "trainer.decay=cosin"), "trainer 'elt': decay is given as 'cosin'"),
        (("--option", "trainer.decay="), "trainer 'elt': decay is given as ''"),
        (("--option", "trainer.teacher=yes"), "trainer 'elt': teacher is given as 'yes'"),
        (("--option", "task.levels=3"), "unknown task 'diffusion' field 'levels'"),
        (("--option", "trianer.decay=cosine"), "unknown part of a run 'trianer'; did you mean 'trainer'?"),
        (("--option", "decay=cosine"), "--option: give for example trainer.decay=cosine, given 'decay=cosine'"),
        (("--option", "trainer.decay"), "--option: give for example trainer.decay=cosine"),
        (("--option", "trainer.decay=step", "--option", "trainer.decay=cosine"), "trainer.decay is given twice"),
    ],
)
def test_train_refuses_what_cannot_be_before_it_starts(ask, tmp_path, arguments, message):
    code, said, error = ask("train", *arguments, "--runs", tmp_path / "runs")
    assert (code, said) == (2, "")
    assert message in " ".join(error.replace("│", " ").split())
    assert not (tmp_path / "runs").exists()


def test_train_refuses_a_cache_that_cannot_be_written(ask, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, error = ask("train", *TINY, "--runs", tmp_path / "file" / "runs")
    assert code == 2
    assert "error: cannot write to" in error


# sample


def drawn_rows(monkeypatch):
    """The names of the rows that the next picture has, filled when it is drawn."""
    from eltbench.evidence import figures

    names, draw = [], figures.pictures

    def recording(images, rows, title):
        names.append((images.shape, rows, title))
        return draw(images, rows, title)

    monkeypatch.setattr(figures, "pictures", recording)
    return names


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loops", "rows"), [((), [*range(1, 13)]), (("--loops", "1:3"), [1, 2, 3]), (("--loops", "2,5"), [2, 5])]
)
def test_sample_draws_a_row_of_pictures_a_loop_count(ask, runs, tmp_path, monkeypatch, loops, rows):
    names = drawn_rows(monkeypatch)
    out = tmp_path / "folder" / "picture.png"
    arguments = (run_id(RUNS["digits"])[:6], *loops, "--samples", 2, "--steps", 1, "--out", out, "--runs", runs)
    assert ask("sample", *arguments) == (0, f"{out}\n", "")
    ((shape, labels, title),) = names
    assert shape == (len(rows), 2, 8, 8, 1)
    assert labels == [f"L = {loop}" for loop in rows]
    assert title == "elt diffusion digits, trained with L_max = 2"
    assert imread(out).shape[0] > 20 * len(rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--loops", "0:2"), "a loop count is at least 1, given [0, 1, 2]"),
        (("--loops", "3:2"), "give at least one loop count"),
        (("--loops", "2,2"), "strictly increasing, given [2, 2]"),
        (("--loops", "two"), "give a range such as 1:12 or a list such as 1,2,4, given 'two'"),
        (("--loops", "1:2:3"), "given '1:2:3'"),
        (("--loops", "1:100000"), "a network is looped 10,000 times at most, given range(1, 100001)"),
        (("--loops", f"1:{10**30}"), "a network is looped 10,000 times at most"),
        (("--loops", "1000000000"), "a network is looped 10,000 times at most, given 1,000,000,000"),
        (("--loops", "1:1000"), "given 1,000 loop counts of 10 samples"),
        (("--samples", "100000000"), "5,000 in all at most, given 12 loop counts of 100,000,000 samples"),
        (("--steps", "100000000"), "a sampler takes at most 100,000 steps, given 100,000,000"),
        (("--guidance-scale", "nan"), "guidance_scale must be finite, given nan"),
        (("--seed", "-1"), "seed: give 0 or more, given -1"),
        (("--samples", "0"), "samples: give at least 1, given 0"),
        (("--steps", "0"), "steps must be at least 1, given 0"),
        (("--device", "cudda"), "torch has no device 'cudda' here"),
        (("--out", "."), "give the name of a picture file, given the folder ."),
        (("--out", "{file}/picture.png"), "cannot write to"),
        (("--out", "{tmp}/picture.xyz"), "xyz"),
    ],
)
def test_sample_refuses_what_cannot_be_drawn(ask, runs, tmp_path, arguments, message):
    (tmp_path / "file").write_text("")
    given = [argument.format(file=tmp_path / "file", tmp=tmp_path) for argument in arguments]
    out = () if "--out" in given else ("--out", tmp_path / "out.png")
    steps = () if "--steps" in given else ("--steps", 1)
    code, said, error = ask("sample", run_id(RUNS["digits"]), "--runs", runs, *out, *steps, *given)
    assert (code, said) == (2, "")
    assert "error: " in error
    assert message in error
    assert not (tmp_path / "out.png").exists()


def test_sample_refuses_a_world_without_images(ask, runs, tmp_path):
    code, _, error = ask("sample", run_id(RUNS["relay"]), "--runs", runs, "--out", tmp_path / "out.png")
    assert code == 2
    assert "error: dataset 'relay' holds no images to draw" in error


@pytest.mark.parametrize("name", ["nothing", "/nowhere/at/all", "*"])
def test_sample_refuses_a_run_that_is_not_there(ask, runs, name):
    code, _, error = ask("sample", name, "--runs", runs)
    assert code == 2
    assert f"error: no trained run named {name!r} in {runs}" in error


# study


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "study: name one of audit, "),
        (("--preset", "quick"), "study: name one of audit, "),
        (("extrapolatoin",), "unknown study 'extrapolatoin'; did you mean 'extrapolation'?"),
    ],
)
def test_study_refuses_what_it_cannot_name(ask, arguments, message):
    code, _, error = ask("study", *arguments)
    assert code == 2
    assert message in error


# compare


@pytest.mark.slow
def test_compare_prints_every_condition_and_one_json_line(ask):
    folder = Path(__file__).parents[2] / "results" / "extrapolation" / "digits"
    code, said, _ = ask("compare", folder, folder)
    assert code == 0
    assert json.loads(said.splitlines()[-1]) == {
        "first": str(folder),
        "second": str(folder),
        "differences": [],
        "compared": 14,
        "verdicts_moved": [],
        "estimates_moved": [],
        "only_first": 0,
        "only_second": 0,
    }


def test_compare_refuses_a_folder_without_results(ask, tmp_path):
    code, _, said = ask("compare", tmp_path, tmp_path)
    assert code == 2
    assert "no folder of results" in said
