"""A folder of results: written in one order, and read back as its rows have it."""

import json
import shutil
from pathlib import Path

import pytest
from filelock import Timeout

import eltbench
from eltbench import studies
from eltbench.cli import main as cli
from eltbench.evidence import publishing, results
from eltbench.evidence.report import published
from eltbench.studies import deciding

RESULTS = Path(__file__).parents[2] / "results"
RELAY = RESULTS / "extrapolation" / "relay"


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """Published results as this version writes them, from the rows that are there."""
    made = tmp_path_factory.mktemp("written") / "results" / "extrapolation" / "relay"
    made.mkdir(parents=True)
    commands = publishing.read_commands(RELAY / "provenance.json")
    rows = results.read_rows(RELAY / "rows.parquet")
    deciding.publish(made, studies.create("extrapolation"), "relay", rows, commands, smoke=False)
    return made


@pytest.fixture
def folder(tmp_path, written) -> Path:
    """A copy of them to change."""
    return Path(shutil.copytree(written.parents[1], tmp_path / "results")) / "extrapolation" / "relay"


def retold(folder):
    return deciding.retell(folder, publishing.read_commands(folder / "provenance.json"))


def forge(folder):
    """Turn every verdict of claims.json round."""
    text = (folder / "claims.json").read_text()
    (folder / "claims.json").write_text(text.replace('"contradicted"', '"-"').replace('"supported"', '"contradicted"'))


def test_commands_take_turns_in_the_folder_itself_wherever_temporary_files_lie(tmp_path, monkeypatch):
    with publishing.lock(tmp_path):
        assert (tmp_path / ".lock").exists()
        monkeypatch.setenv("TMPDIR", str(tmp_path / "elsewhere"))
        with pytest.raises(Timeout, match=r"\.lock"):
            publishing.lock(tmp_path).acquire(timeout=0)


@pytest.mark.slow
@pytest.mark.parametrize("path", list(published.folders(RESULTS)), ids=lambda it: f"{it.parent.name}-{it.name}")
def test_what_is_published_follows_from_its_rows(path):
    assert retold(path).notes == ()


@pytest.mark.slow
def test_the_provenance_holds_the_checksum_of_the_rows_and_the_claims_are_those_published(folder):
    assert (folder / "claims.json").read_bytes() == (RELAY / "claims.json").read_bytes()
    *earlier, last = publishing.read_commands(folder / "provenance.json")
    assert last[results.CHECKSUM] == results.checksum(folder / "rows.parquet")
    assert not any(results.CHECKSUM in entry for entry in earlier)


@pytest.mark.slow
def test_verdicts_that_do_not_follow_from_the_rows_are_told_and_not_shown(folder):
    content = retold(folder).content
    forge(folder)
    told = retold(folder)
    assert told.content == content
    assert told.notes == ("claims.json does not follow from the rows; what is shown was decided from the rows anew",)


@pytest.mark.slow
def test_rows_of_another_state_than_the_files_beside_them_are_noticed(folder, capsys):
    rows = results.read_published(folder / "rows.parquet")
    results.write_table(folder / "rows.parquet", rows.slice(0, len(rows) - 1))  # as if the last step had not been made
    assert any("are of two states" in note for note in retold(folder).notes)
    with pytest.warns(UserWarning, match="are of two states.*repeat the command"):
        eltbench.load_rows(folder)
    assert cli.main(["compare", str(folder), str(RELAY)]) == 0
    assert "are of two states" in capsys.readouterr().out


@pytest.mark.slow
def test_too_many_rows_are_not_decided_anew_which_is_told(folder):
    forge(folder)
    commands = publishing.read_commands(folder / "provenance.json")
    told = deciding.retell(folder, commands, ("run_id",), most=10)
    assert "rows were not decided anew, since they are more than 10" in told.notes[0]
    assert list(told.rows.columns) == ["run_id"]


@pytest.mark.slow
def test_a_study_that_is_not_here_is_neither_imported_nor_decided(folder):
    rows = results.read_published(folder / "rows.parquet")
    named = results.pa.array(["http.server:test"] * len(rows))
    results.write_table(folder / "rows.parquet", rows.set_column(rows.column_names.index("study"), "study", named))
    assert "study 'http.server:test' is not registered here" in retold(folder).notes[-1]


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "3", '{"commands": 3}', '{"commands": [3]}', '{"commands": [{}]}', "\x00"]
)
def test_a_provenance_of_another_form_is_refused_with_its_path(tmp_path, text):
    (tmp_path / "provenance.json").write_text(text)
    with pytest.raises(ValueError, match=r"provenance\.json cannot be read: "):
        publishing.read_commands(tmp_path / "provenance.json")


@pytest.mark.slow
def test_comparing_two_presets_says_first_how_they_were_trained_differently(tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(RELAY, other)
    made = json.loads((other / "provenance.json").read_text())
    for entry in made["commands"]:
        entry["presets"][0]["optimisation"]["steps"] = 150
    (other / "provenance.json").write_text(json.dumps(made))
    assert cli.main(["compare", str(RELAY), str(other)]) == 0
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first == "masked relay torch: field optimisation.steps: first 1500, second 150"
    assert json.loads(last)["differences"] == [first]


@pytest.mark.slow
def test_comparing_shows_the_verdicts_of_the_rows(folder, capsys):
    forge(folder)
    assert cli.main(["compare", str(folder), str(RELAY)]) == 0
    first, *_, last = capsys.readouterr().out.splitlines()
    assert "claims.json does not follow from the rows" in first
    assert json.loads(last)["verdicts_moved"] == []
