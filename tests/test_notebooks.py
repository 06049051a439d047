"""Notebooks are paired with their plain-text sources and look at rows alone; nbmake tests that they run."""

import re
from pathlib import Path

import jupytext
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
SOURCES = sorted((Path(__file__).parents[1] / "notebooks").glob("*.py"))


def test_every_notebook_has_its_source():
    assert NOTEBOOKS
    assert [path.stem for path in NOTEBOOKS] == [path.stem for path in SOURCES]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_and_source_say_the_same(path):
    """`jupytext --sync notebooks/*.py` brings them together."""
    ours, theirs = jupytext.read(path), jupytext.read(path.with_suffix(".py"))
    assert [(cell.cell_type, cell.source) for cell in ours.cells] == [
        (cell.cell_type, cell.source) for cell in theirs.cells
    ]
    assert not any(cell.get("outputs") for cell in ours.cells)  # they would grow stale


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_reads_rows_and_nothing_else(path):
    text = path.read_text(encoding="utf-8")
    assert "eltbench.load_rows(" in text
    assert not re.search(r"read_(csv|parquet|json|text|bytes)\(|open\(|json\.load", text)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_links_lead_to_notebooks_that_are_here(path):
    names = {other.name for other in NOTEBOOKS}
    assert set(re.findall(r"\]\((\w+\.ipynb)\)", path.read_text(encoding="utf-8"))) <= names


@pytest.mark.parametrize("path", [path for path in SOURCES if "../results" in path.read_text()], ids=lambda it: it.stem)
def test_a_notebook_without_results_says_which_command_makes_them(path, tmp_path, monkeypatch, capsys):
    """Its first cell is run, in this process, where no results are."""
    monkeypatch.chdir(tmp_path)
    (first,) = (cell for cell in jupytext.read(path).cells if "import eltbench" in cell.source)
    said = ""
    try:
        exec(compile(first.source.replace("%matplotlib inline", ""), path.name, "exec"), {})
    except ValueError as error:
        said = str(error)
    assert re.search(r"python -m eltbench\.studies\.\w+ --preset \w+", said + capsys.readouterr().out)
