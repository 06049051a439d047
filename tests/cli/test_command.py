"""The command of a study from end to end: what it trains, writes, prints and keeps."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from matplotlib.image import imread

import eltbench
from eltbench.cli import main as cli
from eltbench.cli import run_study as command
from eltbench.core import tables
from eltbench.evidence import results, schema
from eltbench.evidence.claims import COVERS
from eltbench.studies.extrapolation.study import Extrapolation

PRESETS = """
[tiny]
seeds = 2
architecture = { unique_layers = 1, max_loops = 2, width = 16, heads = 2 }
optimisation = { steps = 6, batch_size = 8, warmup_steps = 1, log_every = 2, checkpoint_every = 3 }
measurement = { heldout_draws = 1, sample_loops = [2, 4], samples = 20, sampling = { steps = 2 }, diagnose_loops = [2] }
worlds = [{ task = "diffusion", dataset = "digits" }]
arms = [{ trainer = "elt" }, { trainer = "no-ilsd" }]

[diverging]
extends = "tiny"
seeds = 1
optimisation = { learning_rate = 1e38 }
arms = [{ trainer = "no-ilsd" }]
"""
PLUGIN = """
from dataclasses import dataclass
from eltbench.trainers import Trainer

@dataclass(frozen=True)
class EveryExit(Trainer):
    depth = "looped"

    def exits(self, architecture, rng):
        return tuple(range(1, architecture.max_loops + 1))

    def objective(self, outputs, batch, progress, task, ops):
        return {f"exit {i}": task.loss(output, batch, ops) for i, output in enumerate(outputs, 1)}
"""
FILES = ["claims.json", "figure.pdf", "figure.png", "provenance.json", "rows.parquet", "summary.csv"]
CLAIMS = [claim.id for claim in Extrapolation.claims if not claim.family]  # those on puzzles are not asked of images
KEYS = {"study", "preset", "results", "claims", "runs_done", "runs_cached", "runs_failed"}
MODULE = ("-m", "eltbench.studies.extrapolation")


def start(*arguments, folder: Path, path: Path | None = None):
    """Run python in a process of its own; `path` is searched for plug-ins before anything else."""
    places = [str(path)] if path else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*places, str(Path(eltbench.__file__).parents[1])])}
    process = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "Traceback" not in process.stderr
    return process


def last_line(said: str) -> dict:
    return json.loads(said.splitlines()[-1])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The tiny study, run once by the module's own command."""
    folder = tmp_path_factory.mktemp("study")
    preset = folder / "mine.toml"
    preset.write_text(PRESETS)
    arguments = ("--preset", f"{preset}:tiny", "--runs", folder / "runs")
    process = start(*MODULE, *arguments, folder=folder)
    return SimpleNamespace(
        process=process, arguments=arguments, preset=preset, runs=folder / "runs", published=folder / "results"
    )


@pytest.fixture
def ask(made, tmp_path, capsys):
    """Repeat the command in this process on a copy of its results; gives exit code, stdout, stderr and the folder."""
    shutil.copytree(made.published, tmp_path / "results")

    def run(*arguments, preset="tiny"):
        given = ("--preset", f"{made.preset}:{preset}", "--runs", made.runs, "--results", tmp_path / "results")
        capsys.readouterr()
        code = command.main("extrapolation", [str(argument) for argument in (*given, *arguments)])
        said = capsys.readouterr()
        return SimpleNamespace(
            code=code, out=said.out, err=said.err, folder=tmp_path / "results" / "extrapolation" / preset
        )

    return run


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, but for the empty ones that commands lock."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def no_process(monkeypatch):
    popen = subprocess.Popen

    def refuse(arguments, **options):
        assert "eltbench.execution.worker" not in arguments, "a run was started"
        return popen(arguments, **options)

    monkeypatch.setattr(subprocess, "Popen", refuse)


@pytest.mark.slow
class TestOneStudy:
    def test_it_ends_well_and_its_last_line_is_the_promised_json(self, made):
        assert made.process.returncode == 0, made.process.stderr
        line = last_line(made.process.stdout)
        assert set(line) == KEYS | {"warnings"}
        assert (line["study"], line["preset"]) == ("extrapolation", "tiny")
        assert line["results"] == "results/extrapolation/tiny"
        assert (line["runs_done"], line["runs_cached"], line["runs_failed"]) == (4, 0, 0)
        assert set(line["claims"]) == set(CLAIMS)
        for claim in line["claims"].values():
            assert claim["verdict"] == "inconclusive"  # two seeds give no verdict
            cell = {"task": "diffusion", "dataset": "digits", "backend": "torch", "verdict": "inconclusive"}
            assert claim["cells"] == [cell]

    def test_averages_that_hold_the_first_weights_are_warned_of_everywhere(self, made):
        """Six steps at ema_decay = 0.995: on stderr before any run, in the last line, and beside the rows."""
        (entry,) = json.loads((made.published / "extrapolation/tiny/provenance.json").read_text())["commands"]
        (said,) = last_line(made.process.stdout)["warnings"]
        assert entry["warnings"] == [said]
        assert made.process.stderr.startswith(f"warning: {said}\n")
        assert said.startswith("ema_decay = 0.995 leaves the first weights 97 % of the average")

    def test_it_prints_a_line_a_claim_what_their_intervals_cover_and_where_all_lies(self, made):
        *claims, counted, covers, figure, rows, report, _ = made.process.stdout.splitlines()
        assert [line.split()[1] for line in claims] == list(CLAIMS)
        assert counted == f"{len(CLAIMS)} claims: {len(CLAIMS)} inconclusive"
        assert covers == f"intervals cover {COVERS}"
        assert figure == "figure  results/extrapolation/tiny/figure.png"
        assert rows == "rows    results/extrapolation/tiny/rows.parquet"
        assert report == "report  eltbench report --results results"

    def test_with_v_it_prints_the_wide_table_first(self, made, ask):
        wide = ask("-v").out.splitlines()
        brief = made.process.stdout.splitlines()
        assert wide[-len(brief) : -4] == brief[:-4]  # what follows names this copy's folder
        assert max(map(len, wide[: -len(brief)])) == tables.PIPED_WIDTH

    def test_on_a_terminal_the_line_for_programs_has_to_be_asked_for(self, ask, monkeypatch):
        monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
        assert ask().out.splitlines()[-1].startswith("report  ")
        assert last_line(ask("--json").out)["runs_cached"] == 4

    def test_it_writes_its_six_files_and_nothing_else(self, made):
        files = sorted([*FILES, "samples-diffusion-digits-torch.png"])
        assert sorted(contents(made.published)) == [f"extrapolation/tiny/{name}" for name in files]

    def test_the_rows_are_those_of_the_schema_and_of_every_run(self, made):
        rows = eltbench.load_rows(made.published)
        assert list(rows.columns) == schema.row_schema(Extrapolation.columns).names
        assert set(zip(rows["trainer"], rows["seed"], strict=True)) == {
            ("elt", 0),
            ("elt", 1),
            ("no-ilsd", 0),
            ("no-ilsd", 1),
        }
        assert set(rows["preset"]) == {"tiny"}
        assert set(rows["role"]) == {"main"}
        losses = rows[rows["metric"] == "heldout_loss"]
        assert set(losses["loops"]) == set(range(1, 7))
        assert (losses["effective_depth"] == losses["loops"]).all()
        assert not rows.duplicated(["run_id", "metric", "loops", "stratum"]).any()

    def test_a_run_of_the_rows_can_be_loaded_and_asked(self, made):
        rows = eltbench.load_rows(made.published / "extrapolation" / "tiny" / "rows.parquet")
        model = eltbench.load_model(rows["run_id"].iloc[0], runs=made.runs)
        assert model.sample([1, 2], loops=5, steps=1).shape == (2, 8, 8, 1)

    def test_claims_and_provenance_name_what_they_rest_on(self, made):
        folder = made.published / "extrapolation" / "tiny"
        claims = json.loads((folder / "claims.json").read_text())["claims"]
        assert list(claims) == CLAIMS
        assert claims["elastic"]["comparisons"] == 6
        (entry,) = json.loads((folder / "provenance.json").read_text())["commands"]
        assert len(entry["runs"]["done"]) == 4
        assert "eltbench.studies.extrapolation" in entry["command"]
        assert [preset["architecture"]["width"] for preset in entry["presets"]] == [16]
        assert entry["wall_seconds"] > 0
        assert imread(folder / "figure.png").ndim == 3

    def test_a_repetition_trains_nothing(self, ask, no_process):
        again = ask()
        assert again.code == 0
        line = last_line(again.out)
        assert (line["runs_done"], line["runs_cached"], line["runs_failed"]) == (0, 4, 0)

    def test_the_same_rows_give_the_same_files_byte_by_byte(self, made, ask):
        again = ask()
        before = contents(made.published / "extrapolation" / "tiny")
        after = contents(again.folder)
        assert set(after) == set(before)
        for name in set(FILES) - {"provenance.json"}:
            assert after[name] == before[name], name

    def test_eltbench_study_is_the_same_command(self, made, tmp_path, capsys, no_process):
        given = [*made.arguments, "--results", tmp_path / "other"]
        assert cli.main(["study", "extrapolation", *map(str, given)]) == 0
        line, first = last_line(capsys.readouterr().out), last_line(made.process.stdout)
        assert line["claims"] == first["claims"]
        assert (line["runs_done"], line["runs_cached"]) == (0, 4)
        assert sorted(contents(tmp_path / "other")) == sorted(contents(made.published))

    def test_a_narrowed_command_removes_no_published_row(self, made, ask, no_process):
        narrowed = ask("--trainers", "elt", "--seeds", "1")
        assert narrowed.code == 0
        line = last_line(narrowed.out)
        assert line["runs_cached"] == 1
        assert len(line["claims"]["vanilla-parity"]["cells"]) == 1  # decided from all published rows
        keys = ["run_id", "metric", "loops", "stratum"]
        before = results.read_rows(made.published / "extrapolation" / "tiny" / "rows.parquet").sort_values(keys)
        after = results.read_rows(narrowed.folder / "rows.parquet").sort_values(keys)
        assert after[[*keys, "value"]].reset_index(drop=True).equals(before[[*keys, "value"]].reset_index(drop=True))

    def test_a_dry_run_lists_the_runs_and_writes_nothing(self, made, ask, tmp_path, no_process):
        before = contents(tmp_path / "results") | contents(made.runs)
        dry = ask("--dry-run", "--seeds", "0:3")
        assert dry.code == 0
        *listed, how, total = dry.out.splitlines()
        assert [line.split()[1] for line in listed] == ["cached", "cached", "to", "cached", "cached", "to"]
        assert [line.split("  ")[-1].strip() for line in listed[:3]] == [
            f"elt diffusion digits 1N×2L width=16 heads=2 seed {seed}" for seed in range(3)
        ]
        assert how.startswith("how that is known: 2 kinds of run take as long as here before")
        assert total.startswith("4 cached, 2 to make, about ")
        assert contents(tmp_path / "results") | contents(made.runs) == before

    def test_cached_runs_fit_into_any_budget_which_the_provenance_tells(self, ask, no_process):
        whole = ask("--budget", "1s")
        assert whole.code == 0
        assert whole.err.splitlines()[-2:] == ["left out: nothing", "runs to make: 0, cached: 4"]
        commands = json.loads((whole.folder / "provenance.json").read_text())["commands"]
        assert commands[-1]["budget"] == {"asked": "1s", "left_out": [], "undecided": {}}

    def test_a_dry_run_leaves_a_damaged_table_where_it_is(self, ask, no_process):
        table = ask("--dry-run").folder / "rows.parquet"
        table.write_bytes(table.read_bytes()[:100])
        dry = ask("--dry-run")
        assert dry.code == 0
        assert "damaged" in dry.err
        assert [path.name for path in table.parent.glob("rows.parquet*")] == ["rows.parquet"]

    def test_a_damaged_table_is_reported_set_aside_and_made_again(self, ask, no_process):
        table = ask("--dry-run").folder / "rows.parquet"
        whole = table.read_bytes()
        table.write_bytes(whole[:100])
        mended = ask()
        assert mended.code == 0
        assert "set aside as rows.parquet.damaged-1" in mended.err
        assert table.read_bytes() == whole

    def test_seeds_are_numbers_or_ranges(self, ask, no_process):
        for given in (("0:2",), ("0", "1"), ("0,1",), ("1", "0:2", "0")):
            asked = ask("--dry-run", "--seeds", *given)
            assert asked.out.splitlines()[-1].startswith("4 cached, 0 to make"), given

    def test_a_changed_configuration_is_refused_without_force_and_accepted_with_it(self, made, ask, tmp_path):
        changed = tmp_path / "changed.toml"
        changed.write_text(PRESETS.replace("steps = 6", "steps = 7"))
        before = contents(tmp_path / "results")
        given = ("--preset", f"{changed}:tiny", "--trainers", "elt", "--seeds", "0")
        refused = ask(*given)
        assert refused.code == 2
        assert refused.out == ""
        assert "hold 1 models of the planned cells under another identity" in refused.err
        assert "--force" in refused.err
        assert contents(tmp_path / "results") == before

        forced = ask(*given, "--force")
        assert forced.code == 0
        assert last_line(forced.out)["runs_done"] == 1
        rows = results.read_rows(forced.folder / "rows.parquet")
        assert rows["run_id"].nunique() == 1  # all published rows gave way to this command's
        (entry,) = json.loads((forced.folder / "provenance.json").read_text())["commands"]
        assert [preset["optimisation"]["steps"] for preset in entry["presets"]] == [7]

    @pytest.mark.parametrize("old", ["steps = 6", "heldout_draws = 1"])
    def test_a_trainer_added_to_models_of_another_recipe_is_refused_before_training(
        self, ask, tmp_path, no_process, old
    ):
        changed = tmp_path / "changed.toml"
        changed.write_text(PRESETS.replace(old, old[:-1] + "9"))
        before = contents(tmp_path / "results")
        given = ("--preset", f"{changed}:tiny", "--trainers", "no-ilsd,+universal-transformer", "--seeds", "5:7")
        for more in ((), ("--dry-run",)):
            refused = ask(*given, *more)
            assert refused.code == 2
            field = "optimisation.steps: published 6, this command 9" if "steps" in old else "draws: published 1, this"
            assert field in refused.err
            assert "--force replaces all published rows" in refused.err
        assert contents(tmp_path / "results") == before

    def test_commands_that_only_published_cached_runs_are_told_as_long_as_no_later_one_has_them(self, ask, no_process):
        shutil.rmtree(ask("--dry-run").folder)
        assert ask("--seeds", "0").code == ask("--seeds", "1").code == 0
        made = ask("--seeds", "1")
        commands = json.loads((made.folder / "provenance.json").read_text())["commands"]
        assert [[preset["seeds"] for preset in each["presets"]] for each in commands] == [[[0]], [[1]]]

    def test_a_run_that_diverges_is_named_and_the_exit_code_is_one(self, ask):
        failed = ask(preset="diverging")
        assert failed.code == 1
        line = last_line(failed.out)
        assert (line["runs_done"], line["runs_failed"], line["claims"]) == (0, 1, {})
        assert "at step" in failed.err
        assert "error: no run left any rows" in failed.err
        assert contents(failed.folder) == {}

    def test_a_plugin_is_trained_beside_the_others_and_drawn(self, made, tmp_path):
        (tmp_path / "every_exit.py").write_text(PLUGIN)
        about = tmp_path / "every_exit-1.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: every-exit\nVersion: 1\n")
        (about / "entry_points.txt").write_text("[eltbench.trainers]\nevery-exit = every_exit:EveryExit\n")
        given = (*made.arguments, "--trainers", "elt", "+every-exit", "--seeds", "0", "--results", tmp_path / "results")
        process = start(*MODULE, *given, folder=tmp_path, path=tmp_path)
        assert process.returncode == 0, process.stderr
        line = last_line(process.stdout)
        assert (line["runs_done"], line["runs_cached"]) == (1, 1)
        rows = eltbench.load_rows(tmp_path / "results")
        assert set(rows["trainer"]) == {"elt", "every-exit"}
        figure = Extrapolation().figure(rows)
        assert "every-exit 1N×2L" in [text.get_text() for text in figure.legends[0].get_texts()]
