"""The throughput notebook on rows of a machine that exists on paper: it shows what was measured and why some not."""

from __future__ import annotations

import functools
from pathlib import Path

import jupytext
import matplotlib.pyplot as plt
import pytest
from made_up import Paper

from eltbench.cli import run_study as command
from eltbench.studies.throughput import measuring

SOURCE = Path(__file__).parents[3] / "notebooks" / "throughput.py"
PRESETS = """
[paper]
groups = [{ measure = "call", pairs = [[1, 12]], widths = [16, 64], heads = 2 }]
[small]
groups = [{ measure = "memory", pairs = [[8, 4]], widths = [16], heads = 2, block = "dit" }]
"""


class Every:
    """Holds whatever is asked of it."""

    def __contains__(self, _):
        return True


@pytest.mark.slow
def test_the_notebook_shows_what_was_measured_and_why_some_was_not(tmp_path, monkeypatch, capsys):
    (tmp_path / "my.toml").write_text(PRESETS)
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    monkeypatch.setattr("eltbench.evidence.figures.save", lambda figure, stem: None)
    measure = measuring.measure
    for preset, nursery in (("paper", Paper()), ("small", Paper(skipped=Every()))):
        monkeypatch.setattr(measuring, "measure", functools.partial(measure, nursery=nursery))
        assert command.main("throughput", ["--preset", f"../my.toml:{preset}", "--results", "../results"]) == 0
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *what: shown.extend(what))
    capsys.readouterr()
    space: dict = {}
    for cell in jupytext.read(SOURCE).cells:
        if cell.cell_type == "code":
            exec(compile(cell.source.replace("%matplotlib inline", ""), SOURCE.name, "exec"), space)
    assert capsys.readouterr().out.count("machine: paper, cpu") == 2
    (roofline,) = map(plt.figure, plt.get_fignums())
    labels = {line.get_label() for axis in roofline.axes for line in axis.get_lines()}
    plt.close(roofline)
    assert labels >= {"looped", "unique", "best product, fp32"}
    reasons = [its["reason"].dropna().tolist() for its in shown if hasattr(its, "columns") and "reason" in its]
    assert reasons == [[], ["needs about 9 GiB of memory, 1 GiB are free"]]
