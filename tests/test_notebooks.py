"""Notebooks are paired with their plain-text sources, look at rows alone, and show what running them shows."""

import base64
import re
from io import BytesIO
from pathlib import Path

import jupytext
import nbformat
import pytest
from execute import executed
from PIL import Image

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


def seen(cell):
    """What a cell shows: texts as they are, of pictures their size."""
    found = []
    for output in cell.get("outputs", ()):
        if output.output_type == "stream":
            found.append((output.name, output.text))
        elif "image/png" in (data := output.get("data", {})):
            found.append(("picture", Image.open(BytesIO(base64.b64decode(data["image/png"]))).size))
        else:
            found.append((output.output_type, data.get("text/plain", "")))
    return found


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_shows_what_running_it_shows(path):
    """`python docs/execute.py` brings it up to date."""
    committed, fresh = nbformat.read(path, as_version=4), executed(path)
    for ours, theirs in zip(committed.cells, fresh.cells, strict=True):
        if "varies" not in ours.metadata.get("tags", ()):
            assert seen(ours) == seen(theirs)
        else:
            assert len(seen(ours)) == len(seen(theirs)) > 0


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_outputs_are_small_and_name_no_machine(path):
    text = path.read_text(encoding="utf-8")
    assert len(text) < 600_000
    assert any(cell.get("outputs") for cell in nbformat.read(path, as_version=4).cells)
    plain = re.sub(r'"image/png": "[^"]*"', "", text)
    assert not re.search(r"/(home|root|tmp|Users|work)/", plain)


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
