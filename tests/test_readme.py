"""What the README and the pages beside it show is what the code does and what the committed results say."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.image import imread

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GENERATE = runpy.run_path(str(ROOT / "docs" / "generate.py"))
PAGES = {path.relative_to(ROOT): path.read_text(encoding="utf-8") for path in GENERATE["PAGES"]}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_generated_table_is_that_of_the_committed_results(page):
    assert GENERATE["refreshed"](PAGES[page]) == PAGES[page]


@pytest.mark.parametrize("folder", GENERATE["published"]())
def test_every_published_verdict_is_on_a_page(folder):
    shown = [page for page in PAGES.values() if f"<!-- claims: {folder} -->\n" in page]
    assert bool(shown) == any(claim["cells"] for claim in GENERATE["decided"](folder)["claims"].values())


def test_a_table_that_is_not_of_the_results_is_seen():
    page = PAGES[Path("docs/extrapolation.md")]
    altered = page.replace("**contradicted**", "**supported**", 1)
    assert GENERATE["refreshed"](altered) == page != altered


def test_the_front_page_is_read_in_a_minute_and_shows_a_figure_at_once():
    assert len(README.split()) <= 900
    first_screen = "\n".join(README.splitlines()[:12])
    (picture,) = re.findall(r"!\[[^]]+\]\(([^)]+)\)", first_screen)
    assert (ROOT / picture).exists()


@pytest.mark.slow
def test_ten_lines_of_python_train_draw_samples_and_plot(monkeypatch, tmp_path, capsys):
    (example,) = (block for block in blocks("python") if "load_rows" in block)
    assert len([line for line in example.splitlines() if line]) <= 10
    (tmp_path / "results").symlink_to(ROOT / "results")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ELTBENCH_RUNS", str(tmp_path / "runs"))
    space = {}
    exec(example.replace("steps=200", "steps=2, warmup_steps=1"), space)
    assert "diffusion" in capsys.readouterr().out
    assert [path.parent.name for path in (tmp_path / "runs").glob("*/done.json")] == [space["model"].run_id]
    sizes = {name: imread(tmp_path / f"{name}.png").shape for name in ("samples", "quality")}
    assert sizes["samples"][0] > sizes["samples"][1] > 500  # twelve rows of ten pictures


@pytest.mark.slow
def test_the_trainer_of_the_readme_trains(tmp_path):
    (example,) = (block for block in blocks("python") if "class DeepSupervision" in block)
    assert len(example.splitlines()) <= 30
    (tmp_path / "my_trainer.py").write_text(example)
    size = ["--architecture.width", "8", "--architecture.heads", "2", "--optimisation.steps", "3"]
    command = [sys.executable, "-m", "eltbench.cli.main", "train", "--trainer", "my_trainer:DeepSupervision", *size]
    done = subprocess.run(
        [*command, "--runs", str(tmp_path / "runs")], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    (log,) = (tmp_path / "runs").glob("*/log.jsonl")
    assert set(json.loads(log.read_text().splitlines()[0])) >= {"exit 1", "exit 2", "exit 3", "exit 4"}
