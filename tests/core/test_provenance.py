"""What is recorded of the command that made a number."""

import sys

import pytest

from eltbench.core.provenance import command, provenance


@pytest.mark.parametrize(
    "given",
    [
        "/usr/bin/python -m eltbench.studies.extrapolation --runs /home/me/runs --preset digits",
        "/usr/bin/python -m eltbench.studies.extrapolation --runs=/home/me/runs --preset digits",
        "/usr/bin/python -m eltbench.studies.extrapolation --preset digits --runs /home/me/runs",
        "/usr/bin/python -m eltbench.studies.extrapolation --preset digits",
    ],
)
def test_a_recorded_command_names_neither_the_interpreter_s_folder_nor_the_run_cache(given):
    assert command(given.split()) == "python -m eltbench.studies.extrapolation --preset digits"


def test_all_other_words_are_kept_and_quoted(monkeypatch):
    words = ["/opt/bin/eltbench", "runs", "--results", "my results", "--trainers", "+elt"]
    monkeypatch.setattr(sys, "orig_argv", words)
    assert provenance()["command"] == "eltbench runs --results 'my results' --trainers +elt"
