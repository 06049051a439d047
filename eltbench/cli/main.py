"""The command `eltbench`: reads the name of a subcommand and calls it; `USAGE` lists them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from eltbench import __version__
from eltbench.core import terminal
from eltbench.core.registry import without_allowed
from eltbench.core.validation import unknown

USAGE = """usage: eltbench COMMAND …

  list                  what is registered: trainers, tasks, datasets, backends, studies and their presets
  train                 train one model
  sample RUN            draw the picture of samples by loops of a trained model
  study NAME            ask a study's question; the same as python -m eltbench.studies.NAME
  tune                  choose rates and residual scales on validation items; the same as study tuning
  compare A B           which verdicts and estimates moved between two folders of results
  recommend             the best (N, L) within a latency on this device, from the rows of a study
  report                one page of everything in results/: claims, figures, where they come from
  merge A B --into C    results, or run caches, of several machines in one folder
  runs [verify|prune]   list the run cache, check its files, remove runs
  doctor                versions, devices, weights, and what is missing

+module:Class, anywhere, lets the files that a command reads name that class of your own.
eltbench COMMAND --help says more; eltbench --version tells the version."""

OPTIONS = "options:\n  -h, --help  show this help message and exit"
HELP = {
    "list": f"usage: eltbench list [-h]\n\nPrint every registered name with a line of text.\n\n{OPTIONS}",
    "study": "usage: eltbench study [-h] NAME [OPTIONS]\n\nAsk a study's question. eltbench list shows the studies and "
    f"their presets; eltbench study NAME --help the options of one.\n\n{OPTIONS}",
    "doctor": "usage: eltbench doctor [-h]\n\nPrint versions, devices, weights and what is missing; exits 1 where a "
    f"study could not run.\n\n{OPTIONS}",
}
"""Of the commands that read no options of their own; tyro writes that of all others."""

COMMANDS = {
    "list": "registered:list_names",
    "train": "commands:Train",
    "sample": "commands:Sample",
    "study": "commands:study",
    "tune": "commands:tune",
    "compare": "commands:Compare",
    "recommend": "commands:Recommend",
    "report": "commands:Report",
    "merge": "runs:Merge",
    "runs": "runs:runs",
    "doctor": "commands:doctor",
}
"""A function of the arguments, or a class of options with `act`, for each command; only the called one is loaded."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code, 2 for refused input. Errors that the user can mend show no traceback."""
    return terminal.answer(lambda: _main(list(sys.argv[1:] if arguments is None else arguments)))


def _main(given: list[str]) -> int:
    if "" not in sys.path:
        sys.path.append("")  # a user's own trainer in this folder is found, after everything that is installed
    studying = next((word for word in given if not word.startswith("+")), "") in ("study", "tune")
    given = without_allowed(given, adding="--trainers" if studying else "")
    if not given or given[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if given else 2
    if given[0] in ("-V", "--version"):
        print(f"eltbench {__version__}")
        return 0
    if given[0] in HELP and given[1:2] in (["-h"], ["--help"]):
        print(HELP[given[0]])
        return 0
    if given[0] not in COMMANDS:
        print(f"error: {unknown('command', given[0], list(COMMANDS))}", file=sys.stderr)
        return 2
    name, *arguments = given
    module, _, what = COMMANDS[name].partition(":")
    found: Any = getattr(import_module(f"eltbench.cli.{module}"), what)
    if isinstance(found, type):
        from eltbench.cli import command_line

        return int(command_line.read(found, f"eltbench {name}", arguments).act())
    return int(found(arguments))


if __name__ == "__main__":
    sys.exit(main())
