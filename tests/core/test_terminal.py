"""Commands whose streams are closed, narrow or read no further, and whose user has no home: no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import eltbench
from eltbench.cli import main as cli
from eltbench.core import terminal

LISTING = [sys.executable, "-m", "eltbench", "list"]


def ask(command, **environment):
    known = {**os.environ, "PYTHONPATH": str(Path(eltbench.__file__).parents[1]), **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=known)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["list"], ["train", "--help"], ["study", "audit", "--help"]])
def test_a_reader_who_leaves_ends_a_command_without_a_word(arguments):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "eltbench", *arguments]
    with os.fdopen(writing) as stdout:
        done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (terminal.UNREAD, "")


def test_a_full_disk_under_stdout_is_said():
    with open("/dev/full", "w") as stdout:
        done = subprocess.run(LISTING, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (2, "error: [Errno 28] No space left on device\n")


def test_streams_that_were_never_open_are_done_without():
    done = ask(["sh", "-c", f"{sys.executable} -m eltbench list >&- 2>&-"])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
def test_a_stderr_that_nobody_reads_ends_nothing(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    small = ["--architecture.width", "8", "--architecture.heads", "2", "--architecture.unique-layers", "1"]
    command = [*LISTING[:-1], "train", "--optimisation.steps", "2", *small, "--runs", str(tmp_path)]
    with os.fdopen(writing) as stderr:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, text=True, timeout=120)
    assert done.returncode == 0
    assert (tmp_path / done.stdout.strip() / "done.json").exists()


def test_characters_that_the_terminal_lacks_are_replaced():
    code = "from eltbench.core import terminal; terminal.answer(lambda: print('2N×4L −3 ✔') or 0)"
    done = ask([sys.executable, "-c", code], PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout, done.stderr) == (0, "2N?4L ?3 ?\n", "")


def test_an_unknown_home_is_told_what_to_give_instead(monkeypatch, capsys):
    def unknown(path):
        raise RuntimeError("Could not determine home directory.")

    for name in ("ELTBENCH_RUNS", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "expanduser", unknown)
    assert cli.main(["runs"]) == 2
    assert "give --runs a folder, or set $ELTBENCH_RUNS" in capsys.readouterr().err


@pytest.mark.parametrize(("stopped", "code"), [(KeyboardInterrupt, 130), (terminal.Terminated, 143)])
def test_an_interrupted_command_says_how_to_go_on(stopped, code, capsys):
    def act():
        raise stopped

    assert terminal.answer(act) == code
    assert "repeat the command to go on" in capsys.readouterr().err


@pytest.mark.parametrize(("there", "asked", "told"), [(True, False, False), (True, True, True), (False, False, True)])
def test_programs_are_told_where_nobody_looks_or_where_they_ask(monkeypatch, capsys, there, asked, told):
    monkeypatch.setattr("sys.stdout.isatty", lambda: there, raising=False)
    terminal.tell_programs({"runs": 3}, always=asked)
    assert capsys.readouterr().out == ('{"runs": 3}\n' if told else "")


def test_a_line_is_cut_to_the_terminal_alone(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    line = "a name, and what it is"
    assert terminal.cut(line) == line
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert terminal.cut(line) == "a name, and what it…"
    assert terminal.cut(line[:20]) == line[:20]
