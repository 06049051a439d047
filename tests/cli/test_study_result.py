"""`eltbench.run_study` gives what the command of the study publishes."""

from __future__ import annotations

import pandas as pd
import pytest
from matplotlib.figure import Figure

import eltbench
from eltbench.cli import run_study as command
from eltbench.cli.study_result import StudyResult
from eltbench.evidence import verdicts
from eltbench.studies import deciding

PRESETS = """
[tiny]
seeds = 3
architecture = { unique_layers = 1, max_loops = 2, width = 8, heads = 2 }
optimisation = { steps = 4, batch_size = 4, warmup_steps = 1 }
measurement = { heldout_draws = 1, samples = 0 }
worlds = [{ task = "diffusion", dataset = "digits" }]
arms = [{ trainer = "elt" }, { trainer = "no-ilsd" }]

[diverging]
extends = "tiny"
seeds = 1
arms = [{ trainer = "elt" }, { trainer = "no-ilsd", optimisation = { learning_rate = 1e38, steps = 20 } }]
"""


class Made:
    """A study that its command published, and how to ask for it."""

    def __init__(self, folder):
        (folder / "mine.toml").write_text(PRESETS)
        self.preset, self.runs, self.results = f"{folder / 'mine.toml'}:tiny", folder / "runs", folder / "results"
        given = ["--preset", self.preset, "--runs", str(self.runs), "--results", str(self.results), "--workers", "2"]
        assert command.main("extrapolation", given) == 0
        self.published = self.results / "extrapolation" / "tiny"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Made(tmp_path_factory.mktemp("study"))


@pytest.mark.slow
class TestAStudyOfModels:
    def test_it_is_what_the_command_published(self, made, no_process, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        found = eltbench.run_study("extrapolation", made.preset, runs=made.runs)
        pd.testing.assert_frame_equal(found.rows, eltbench.load_rows(made.published))
        decided = verdicts.frame(deciding.decide_published(made.published))
        pd.testing.assert_frame_equal(found.claims, decided)
        summary = pd.read_csv(made.published / "summary.csv")
        assert found.summary["mean"].round(4).tolist() == pytest.approx(summary["mean"].round(4).tolist(), nan_ok=True)
        assert isinstance(found.figure(), Figure)
        assert list(tmp_path.iterdir()) == []  # nothing is published
        assert capsys.readouterr().out == ""

    def test_it_publishes_where_it_is_told_to_and_nowhere_else(self, made, no_process, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        found = eltbench.run_study("extrapolation", made.preset, runs=made.runs, results="mine")
        assert found.folder.resolve() == tmp_path / "mine" / "extrapolation" / "tiny"
        for name in ("rows.parquet", "claims.json", "summary.csv", "figure.png"):
            assert (found.folder / name).read_bytes() == (made.published / name).read_bytes(), name
        assert list(tmp_path.iterdir()) == [tmp_path / "mine"]

    def test_it_is_narrowed_by_the_options_of_the_command(self, made, no_process):
        found = eltbench.run_study("extrapolation", made.preset, runs=made.runs, trainers="elt", seeds=range(1, 3))
        published = eltbench.load_rows(made.published).query("trainer == 'elt' and seed > 0")
        pd.testing.assert_frame_equal(found.rows, published.reset_index(drop=True))
        assert eltbench.run_study("extrapolation", made.preset, runs=made.runs, seeds=2).rows["seed"].unique() == [2]

    def test_it_adds_to_published_rows_and_gives_all_of_them(self, made, no_process, tmp_path):
        for seeds in ([0], [1, 2]):
            found = eltbench.run_study("extrapolation", made.preset, runs=made.runs, results=tmp_path, seeds=seeds)
        assert sorted(found.rows["seed"].unique()) == [0, 1, 2]
        other = tmp_path / "other.toml"
        other.write_text(PRESETS.replace("steps = 4,", "steps = 5,"))
        with pytest.raises(ValueError, match="under another identity"):
            eltbench.run_study("extrapolation", f"{other}:tiny", runs=made.runs, results=tmp_path)

    def test_a_run_that_fails_is_told_and_costs_only_itself(self, made):
        preset = made.preset.replace(":tiny", ":diverging")
        with pytest.warns(RuntimeWarning, match=r"(?s)1 failed.*DivergedError"):
            found = eltbench.run_study("extrapolation", preset, runs=made.runs, progress=False)
        assert set(found.rows["trainer"]) == {"elt"}
        assert len(found.failures) == 1
        assert "1 failed" in repr(found)
        with pytest.raises(RuntimeError, match=r"left no rows\nrun .*DivergedError"):
            eltbench.run_study("extrapolation", preset, runs=made.runs, trainers=["no-ilsd"], progress=False)

    def test_it_says_what_it_is(self, made, no_process):
        found = eltbench.run_study("extrapolation", made.preset, runs=made.runs)
        assert repr(found).startswith(f"StudyResult(extrapolation tiny: {len(found.rows)} rows, ")
        assert repr(found).endswith("; not published)")
        shown = found._repr_html_()
        assert all(decision.claim.id in shown for decision in found.decisions)


@pytest.mark.slow
def test_a_study_that_trains_nothing_is_made_as_its_command_makes_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command.main("audit", ["--results", "theirs"]) == 0
    found = eltbench.run_study("audit")
    assert isinstance(found, StudyResult)
    published = eltbench.load_rows(tmp_path / "theirs" / "audit")
    pd.testing.assert_frame_equal(found.rows.drop(columns="time"), published.drop(columns="time"))
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"sedes": [1]}, "unknown run_study field 'sedes'; did you mean 'seeds'"),
        ({"trainers": ["etl"]}, "did you mean 'elt'"),
        ({"dry_run": True}, "a dry run is of the command alone"),
        ({"workers": "two"}, "workers is given as 'two'"),
        ({"preset": "smok"}, "did you mean 'smoke'"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_begun(given, said, tmp_path, no_process):
    with pytest.raises(ValueError, match=said):
        eltbench.run_study("extrapolation", **{"preset": "smoke", **given}, runs=tmp_path)
    with pytest.raises(ValueError, match="did you mean 'extrapolation'"):
        eltbench.run_study("extrapolatoin")
    assert not any(tmp_path.iterdir())
