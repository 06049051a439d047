"""The code in the README and in docs/ works: Python blocks are executed, commands are read by their own parser."""

from __future__ import annotations

import importlib
import re
import shlex
import tomllib
from pathlib import Path

import numpy as np
import pytest
import tyro

import eltbench
from eltbench import studies
from eltbench.cli import main as cli
from eltbench.cli import run_study as command
from eltbench.core.config import Architecture, Optimisation, Run
from eltbench.core.registry import allow_named
from eltbench.execution.store import RunStore
from eltbench.execution.worker import work
from eltbench.studies.presets import load_preset, load_table
from eltbench.training.loop import fit, parts
from eltbench.training.model import Model

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
SMALL = Architecture(unique_layers=1, max_loops=4, width=8, heads=2)
BRIEF = Optimisation(steps=2, batch_size=4, warmup_steps=1)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """The words of every command in a page's shell blocks; comments and continued lines as a shell reads them."""
    lines = "\n".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    return [words for line in lines for words in split(shlex.split(line, comments=True))]


def split(words: list[str]) -> list[list[str]]:
    """The commands of one line that && or ; puts together, without the variables that are set before them."""
    found: list[list[str]] = [[]]
    for word in words:
        if word in ("&&", ";"):
            found.append([])
        elif found[-1] or not re.fullmatch(r"[A-Z_]+=\S*", word):
            found[-1].append(word)
    return [each for each in found if each]


class Parsed(BaseException):
    """Raised where a command line has been read, before anything is done."""


@pytest.fixture
def only_parsing(monkeypatch, tmp_path):
    """Every command ends once its own parser has taken its words."""
    read = tyro.cli

    def parse(*given, **options):
        raise Parsed(read(*given, **options))

    monkeypatch.setattr(tyro, "cli", parse)
    monkeypatch.chdir(tmp_path)


def taken(call) -> object:
    """What the parser made of the words; fails where there was none, or where the words are refused."""
    with pytest.raises(Parsed) as found:
        call()
    return found.value.args[0]


def check(words: list[str]) -> None:
    """One command of a page: what it calls exists, and its options are those that the program knows."""
    head, *rest = words
    if "-m" in rest:  # python -m …, torchrun … -m …
        assert head in ("python", "torchrun"), words
        head, *rest = rest[rest.index("-m") + 1 :]
    if head == "python":  # of an example; examples/ is on the path of tests
        assert (ROOT / rest[0]).is_file(), words
        taken(lambda: importlib.import_module(Path(rest[0]).stem).main(rest[1:]))
    elif head.startswith("eltbench.studies."):
        asked = taken(lambda: command.main(head.rpartition(".")[2], rest))
        preset = getattr(asked, "preset", None)
        if preset and ".toml" not in preset and "$" not in preset:
            load_table(head.rpartition(".")[2], preset)
    elif head == "eltbench" and rest[0] in ("list", "doctor"):
        assert rest[1:] == []
    elif head == "eltbench" and rest[0] == "study" and ":" in rest[1]:
        assert re.fullmatch(r"\w+:\w+", rest[1])  # a class of the page itself, executed below
    elif head == "eltbench":
        taken(lambda: cli.main(rest))
    elif head == "make":
        assert re.search(rf"^{rest[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), words
    elif head == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert set(re.findall(r"eltbench\[(\w+)\]", " ".join(rest))) <= set(extras), words
    else:
        assert head in (".", "git", "cd"), words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_is_one_that_its_parser_takes(page, only_parsing):
    for words in commands(page):
        check(words)


@pytest.mark.parametrize(
    "line",
    ["eltbench train --trainr elt", "python -m eltbench.studies.extrapolation --no-such", "make nothing", "rm -rf /"],
)
def test_a_command_that_does_not_exist_is_seen(line, only_parsing, capsys):
    with pytest.raises((AssertionError, SystemExit)):
        check(shlex.split(line))


def test_every_page_with_python_is_executed_by_a_test():
    """A page's tests read it by its name."""
    tests = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    for page in PAGES:
        if blocks(page, "python"):
            assert any(f'"{page.name}"' in text for text in tests), page.name


@pytest.fixture
def beside_results(monkeypatch):
    """Examples name results/ as from the root of the repository."""
    monkeypatch.chdir(ROOT)


@pytest.mark.slow
def test_the_study_of_the_tutorial_runs(tmp_path, monkeypatch, capsys):
    _, studied, _ = blocks(ROOT / "docs" / "tutorial.md", "python")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ELTBENCH_RUNS", "runs")
    exec(studied, {})
    assert capsys.readouterr().out.startswith("StudyResult(extrapolation smoke: ")
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "figure.png"}


def test_the_tutorial_runs(tmp_path, beside_results, capsys):
    asked, _, read = blocks(ROOT / "docs" / "tutorial.md", "python")
    fit(Run("elt", "diffusion", "digits", architecture=SMALL, optimisation=BRIEF), tmp_path)
    exec(asked.replace('"RUN"', repr(str(tmp_path))), {})
    assert capsys.readouterr().out.startswith("(10, 8, 8, 1) ")
    exec(read, {})
    assert "no-ilsd" in capsys.readouterr().out


def test_training_flops_beside_elts_are_those_that_the_page_states(capsys):
    page = ROOT / "docs" / "extrapolation.md"
    (example,) = blocks(page, "python")
    exec(example, {})
    said = dict(line.rsplit(" ", 1) for line in capsys.readouterr().out.splitlines())
    assert (said["elt main"], said["deep-supervision main"]) == ("1.0", "1.0")
    text = " ".join(page.read_text(encoding="utf-8").split())
    assert f"for {said['random-loops main']} of ELT's training FLOPs" in text
    assert f"takes {float(said['deq 12-iterations']):.1f} times ELT's training FLOPs" in text


def test_every_study_tells_its_key_columns(capsys):
    (example,) = blocks(ROOT / "docs" / "columns.md", "python")
    exec(example, {})
    assert "extrapolation ['role', 'stratum'," in capsys.readouterr().out


def test_the_verdicts_of_the_page_are_decided(beside_results, capsys):
    (example,) = blocks(ROOT / "docs" / "verdicts.md", "python")
    space: dict = {}
    exec(example, space)
    assert set(space["table"]["verdict"]) == {"supported", "contradicted"}
    assert "vanilla-collapse" in capsys.readouterr().out


@pytest.fixture
def written(tmp_path, monkeypatch) -> Path:
    """A folder with the files of the page on extending, under the names that the page gives them."""
    page = ROOT / "docs" / "extending.md"
    names = re.findall(r"`(my_\w+\.py)`:\n\n```python\n", page.read_text(encoding="utf-8"))
    for name, example in zip(names, blocks(page, "python"), strict=True):
        (tmp_path / name).write_text(example)
    (presets,) = blocks(page, "toml")
    (tmp_path / "my.toml").write_text(presets)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def test_the_dataset_and_the_task_of_the_page_train(written):
    allow_named(["my_task:AbsoluteDiffusion", "my_stripes:Stripes"])
    run = Run("elt", "my_task:AbsoluteDiffusion", "my_stripes:Stripes", architecture=SMALL, optimisation=BRIEF)
    model = Model(run, fit(run, written / "run"), parts(run))
    held = model.dataset.heldout()
    assert np.array_equal(held.values, model.dataset.heldout().values)
    (batch,) = model.task.heldout(held, model.spec, np.random.default_rng(0), 1)
    (prediction,) = model.predict(batch.inputs, batch.labels, batch.log_snr, exits=(4,))
    ops = model.engine.ops
    uploaded = model.engine.upload(batch)
    (output,) = model.engine.predict(uploaded, (4,))
    found = model.engine.numpy(model.task.errors(output, uploaded, ops))
    expected = batch.weight * np.abs(prediction - batch.target).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.slow
def test_the_study_of_the_page_runs_by_its_command(written, capsys):
    (line,) = [words for words in commands(ROOT / "docs" / "extending.md") if words[:2] == ["eltbench", "study"]]
    allow_named(word.removeprefix("+") for word in line)
    store, jobs = RunStore("runs"), studies.create("my_study:FirstExit").plan(load_preset("any", "my.toml:tiny"))
    work([jobs], store, print)  # in this process, which has torch already
    assert cli.main([*line[1:], "--runs", "runs"]) == 0
    folder = written / "results" / "my_study:FirstExit" / "tiny"
    rows = eltbench.load_rows(folder)
    assert rows["loops"].tolist() == [1, 2]
    assert {path.name for path in folder.iterdir()} >= {"figure.png", "summary.csv", "provenance.json"}
