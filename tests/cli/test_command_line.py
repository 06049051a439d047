"""A path that begins with ~ means one place, whoever reads it."""

from dataclasses import dataclass
from pathlib import Path

import pytest

import eltbench
from eltbench.cli import command_line
from eltbench.cli import main as cli
from eltbench.core.atomic import expanded
from eltbench.evidence import results
from eltbench.execution.store import RunStore
from eltbench.training.model import runs_root

RELAY = Path(__file__).parents[2] / "results" / "extrapolation" / "relay"


@dataclass(frozen=True)
class Command:
    """For the test."""

    where: Path
    others: tuple[Path, ...] = ()
    seed: int = 0


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A home folder, with the working folder elsewhere."""
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


def test_every_path_of_a_command_line_is_expanded(home):
    asked = command_line.read(Command, "test", ["--where=~/x", "--others", "~/y", "z", "--seed", "3"])
    assert asked == Command(home / "x", (home / "y", Path("z")), 3)


def test_the_cache_and_the_rows_are_looked_for_in_the_home_folder(home, monkeypatch):
    assert runs_root("~/x") == RunStore(Path("~/x")).root == home / "x"
    monkeypatch.setenv("ELTBENCH_RUNS", "~/runs")
    assert runs_root() == home / "runs"
    monkeypatch.delenv("ELTBENCH_RUNS")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert runs_root() == home / ".cache" / "eltbench" / "runs"
    (home / "mine").symlink_to(RELAY)
    assert len(eltbench.load_rows("~/mine")) == len(eltbench.load_rows(RELAY))


def test_a_folder_named_like_the_home_is_itself_once_the_path_is_read(home):
    table = results.read_table(RELAY / "rows.parquet")
    results.write_table(Path("~") / "rows.parquet", table)
    assert (Path.cwd() / "~" / "rows.parquet").exists()
    assert results.read_table(Path("~") / "rows.parquet").equals(table)
    assert not (home / "rows.parquet").exists()


def test_the_home_of_nobody_is_refused_in_plain_words(capsys):
    with pytest.raises(ValueError, match="give the path without ~"):
        expanded("~no-such-user-here/x")
    assert cli.main(["report", "--results=~no-such-user-here/x"]) == 2
    assert "error: ~no-such-user-here/x: " in capsys.readouterr().err


@pytest.mark.slow
def test_a_report_is_written_into_the_home_folder(home):
    (home / "results").mkdir()
    (home / "results" / "relay").symlink_to(RELAY)
    assert cli.main(["report", f"--results={RELAY}", "--out=~/report.html"]) == 0
    assert (home / "report.html").exists()
    assert list(Path.cwd().iterdir()) == []
