"""The command of the throughput study, on a machine that exists on paper: its files, its words, its refusals."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from made_up import Paper
from matplotlib.image import imread

import eltbench
from eltbench.cli import compare as comparison
from eltbench.cli import main as cli
from eltbench.cli import run_study as command
from eltbench.core import terminal
from eltbench.studies.presets import load_table
from eltbench.studies.throughput import measuring, tables
from eltbench.studies.throughput.cell_groups import preset_from_table
from eltbench.studies.throughput.timing_process import ProcessError

FILES = ["claims.json", "figure.pdf", "figure.png", "provenance.json", "rows.parquet", "summary.csv", "timings.parquet"]
PRESET = """
[paper]
groups = [
    { measure = "call", pairs = [[1, 12]], widths = [16, 64], heads = 2 },
    { measure = "sampler", pairs = [[1, 12]], widths = [64], heads = 2, sampling_steps = 2 },
    { measure = "step", pairs = [[2, 4]], widths = [16], heads = 2, block = "dit" },
    { measure = "memory", pairs = [[8, 4]], widths = [16], heads = 2, block = "dit" },
    { measure = "peers", pairs = [[1, 1]], widths = [16], heads = 2 },
]
"""


@pytest.fixture
def paper(monkeypatch):
    made = Paper(ratio=lambda cell, process: 1.5 + 0.001 * process)
    monkeypatch.setattr(measuring, "measure", functools.partial(measuring.measure, nursery=made))
    return made


@pytest.fixture
def undrawn(monkeypatch):
    """Leaves the figure out: it is looked at once, and drawing takes seconds."""
    monkeypatch.setattr("eltbench.evidence.figures.save", lambda figure, stem: None)


@pytest.fixture
def arguments(tmp_path):
    (tmp_path / "my.toml").write_text(PRESET)
    return ["--preset", f"{tmp_path / 'my.toml'}:paper", "--results", str(tmp_path / "results")]


@pytest.mark.slow
def test_one_command_measures_decides_and_writes_everything_into_one_folder(paper, arguments, tmp_path, capsys):
    assert command.main("throughput", [*arguments, "--verbose"]) == 0
    folder = tmp_path / "results" / "throughput" / "paper"
    assert sorted(path.name for path in folder.iterdir() if path.name != ".lock") == FILES
    assert imread(folder / "figure.png").std() > 0
    rows = eltbench.load_rows(folder)
    assert set(rows["measure"]) == {"ceiling", "call", "sampler", "step", "memory", "peers"}
    assert rows[rows["metric"] == "throughput_ratio"].groupby("run_id").size().tolist() == [5, 5, 5]
    raw = pq.read_table(folder / "timings.parquet").to_pandas()
    assert set(raw["run_id"]) == set(rows[rows["measure"].isin(["call", "sampler", "step", "peers"])]["run_id"])

    said = capsys.readouterr().out
    assert "machine: paper, cpu" in said
    assert "looping pays (by more than 10 %) at the one block measured for 12 layers" in said
    assert "operating-point: the claim compares at least 3 tiers" in said
    line = json.loads(said.strip().splitlines()[-1])
    assert line["claims"]["train-memory"]["verdict"] == "contradicted"  # a ratio of 1.5
    decided = json.loads((folder / "claims.json").read_text())
    assert decided["claims"]["throughput"]["intervals_cover"].startswith("fresh processes")
    cells = [(cell["task"], cell["dataset"]) for cell in decided["claims"]["throughput"]["cells"]]
    assert cells[1:] == [
        (what, "1N×12L against 12, width 64, 16 tokens, batch 1, fp32, threads 1, bert")
        for what in ("network call", "sampler of 2 steps")
    ]
    assert decided["machine"][0].startswith("machine: paper, cpu")
    assert decided["left_out"] == []
    (entry,) = json.loads((folder / "provenance.json").read_text())["commands"]
    assert len(entry["runs"]["done"]) == 6
    assert entry["runs"]["failed"] == entry["runs"]["skipped"] == {}
    assert entry["presets"][0]["name"] == "paper"


@pytest.mark.slow
def test_the_published_files_make_the_page_s_table_and_the_report(paper, undrawn, arguments, tmp_path):
    missing = preset_from_table(*load_table("throughput", arguments[1])).cells[-1]
    paper.skipped = [missing.id]
    assert command.main("throughput", arguments) == 0
    folder = tmp_path / "results" / "throughput" / "paper"
    sentences = json.loads((folder / "claims.json").read_text())["sentences"]
    written = tables.markdown(eltbench.load_rows(folder), pd.read_csv(folder / "summary.csv"), sentences)
    assert written.startswith("- machine: paper, cpu, threads: 1, memory: 1 GiB\n- caches: L2 1 MiB;")
    lines = [line for line in written.splitlines() if line.startswith("| call 1N×12L against 12, width 64")]
    assert lines[0].split(" | ")[1:6] == [
        "throughput ratio: looped over unique",
        "1.502 [1.500, 1.504]",
        "9.653",  # by products in their places
        "10.000",  # by the textbook's roofline
        "spills",
    ]
    assert written.endswith(f"- {sentences[-1]}\n")
    page = tmp_path / "report.html"
    assert cli.main(["report", "--results", str(tmp_path / "results"), "--out", str(page)]) == 0
    told = page.read_text()
    assert "throughput, paper" in told
    assert "machine: paper, cpu, threads: 1" in told
    assert "looping pays (by more than 10 %) at the one block measured" in told
    assert f"{missing.name}: needs about 9 GiB of memory" in told
    assert "Intervals here cover fresh processes on this machine" in told
    assert "supported if between -5.00 % and +5.00 %" in told
    assert "supported if above +10.00 %" in told


@pytest.mark.slow
def test_a_second_command_replaces_nothing_unless_forced(paper, undrawn, arguments, tmp_path, capsys):
    assert command.main("throughput", arguments) == 0
    asked = len(paper.asked)
    assert command.main("throughput", arguments) == terminal.REFUSED
    assert "holds an earlier run; repeat with --force" in capsys.readouterr().err
    assert len(paper.asked) == asked  # it was refused before anything was measured
    assert command.main("throughput", [*arguments, "--force"]) == 0
    folder = tmp_path / "results" / "throughput" / "paper"
    found = comparison.compare(folder, folder)
    assert {each.claim for each in found} == {"throughput", "step-cost", "train-memory"}
    assert not any(each.moved for each in found)


def test_a_dry_run_lists_the_cells_and_measures_nothing(paper, arguments, tmp_path, capsys):
    assert command.main("throughput", [*arguments, "--dry-run"]) == 0
    assert not paper.asked
    assert not (tmp_path / "results").exists()
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 7
    assert said[0].endswith("call 1N×12L against 12, width 16, batch 1, 16 tokens, bert, fp32, eager")
    assert said[-1].startswith("6 cells in 5 processes each, about ")
    assert said[-1].endswith(" in all on an idle machine, more where noisy processes are repeated")


def test_more_threads_than_processors_are_not_started_and_that_is_said(paper, undrawn, arguments, monkeypatch, capsys):
    monkeypatch.setattr("eltbench.studies.throughput.study.processors", lambda: 1)
    path = arguments[1].split(":")[0]
    Path(path).write_text(PRESET.replace("[paper]", "[paper]\nthreads = 2"))
    assert command.main("throughput", arguments) == 0
    assert "note: preset 'paper' asks for 2 threads, here are 1" in capsys.readouterr().err
    assert {message["threads"] for message in paper.asked} == {1}


def test_a_cell_that_fails_makes_the_command_say_so_and_the_others_stand(paper, undrawn, arguments, capsys):
    failing = preset_from_table(*load_table("throughput", arguments[1])).cells[0]
    paper.broken = [failing.id]
    assert command.main("throughput", arguments) == command.FAILED
    said = capsys.readouterr()
    assert said.err.count(f"failed: {failing.name}, process") == 5
    assert "looping pays" in said.out


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--device", "tpu"], "torch has no device 'tpu'"),
        (["--preset", "gpus"], "unknown preset of throughput 'gpus'; did you mean 'gpu'?"),
        (["--preset", "no.toml:paper"], "preset file no.toml"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_measured(paper, arguments, capsys, changed, message):
    assert command.main("throughput", [*arguments, *changed]) == terminal.REFUSED
    assert message in capsys.readouterr().err
    assert not paper.asked


def test_without_ceilings_the_command_says_why_and_writes_nothing(paper, arguments, tmp_path, capsys, monkeypatch):
    def dead(message):
        raise ProcessError("process was killed by SIGKILL")

    monkeypatch.setattr(paper, "ask", dead)
    assert command.main("throughput", arguments) == command.FAILED
    assert "ceilings could not be measured: process was killed by SIGKILL" in capsys.readouterr().err
    assert not list((tmp_path / "results").rglob("*.parquet"))


def test_the_study_is_listed_with_its_presets(capsys):
    assert cli.main(["list"]) == 0
    told = capsys.readouterr().out.partition("\n  throughput ")[2].splitlines()
    assert [line.split()[0] for line in told[1:5]] == ["smoke", "cpu", "cpu-scales", "gpu"]
