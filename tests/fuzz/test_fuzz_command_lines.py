"""Odd command lines: an exit code of 0, 1 or 2, a message for what is refused, no traceback, and nothing is trained."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from judging import asked, bounded, drawn, tried, watched
from start import TRAINED

from eltbench import studies
from eltbench.cli import run_study as study_command
from eltbench.execution import train
from eltbench.execution.estimate import estimate
from eltbench.execution.sweep import Outcome
from eltbench.studies.throughput import measuring
from eltbench.studies.throughput import recommend as recommending
from eltbench.training.identity import run_id

TEXTS = (
    *("", " ", "-", "--", "0", "-1", "1", "2.5", "1e999", "nan", "inf", "-inf", "99999999999999999999", "true", "None"),
    *(
        "[]",
        "{}",
        "a=b",
        "trainer.decay=",
        "trainer.decay=[",
        "=",
        ",",
        ":",
        "0:",
        ":0",
        "3:1",
        "1,2",
        "elt",
        "+elt",
        "+",
    ),
    *(".", "..", "/", "../..", "~nobody/x", "/dev/null", "/nowhere/at/all", "x.toml", "x.toml:y", "*", "a" * 5000),
    *("💥", "\udcff", "\x1b[2J", "nowhere:At", "json:loads", "30d", "2h", "--help", "quick", "digits", "smoke"),
)
OPTIONS = {
    "list": (),
    "doctor": (),
    "train": (
        *("trainer", "task", "dataset", "seed", "option", "backend", "device", "precision", "compile", "threads"),
        *("devices", "runs", "architecture.unique-layers", "architecture.max-loops", "architecture.width"),
        *("architecture.block", "optimisation.steps", "optimisation.learning-rate", "optimisation.betas"),
    ),
    "sample": ("loops", "samples", "seed", "steps", "guidance-scale", "out", "runs", "device"),
    "compare": (),
    "recommend": ("latency-ms", "rows", "world", "calls", "batch", "backend", "device", "threads", "precision", "mode"),
    "report": ("results", "out", "narrow"),
    "merge": ("into", "dry-run"),
    "runs": ("trainers", "tasks", "datasets", "backends", "seeds", "states", "older-than", "newer-than", "runs"),
    **{
        f"study {name}": (
            *("preset", "tasks", "trainers", "seeds", "backend", "device", "devices", "workers", "engine", "scheduler"),
            *("vectorise-seeds", "runs", "results", "dry-run", "budget", "force"),
        )
        for name in studies.names()
    },
    "runs verify": ("trainers", "states", "repair", "runs"),
    "runs prune": ("trainers", "states", "dry-run", "older-than", "seeds", "runs"),
}
REFUSED = [
    "lst", "list please", "doctor please", "study", "study etl", "train --seed -1", "train --trainer etl",
    "train --architecture.width 0", "train --optimisation.steps 0", "train --optimisation.learning-rate nan",
    "train --threads 0", "train --option trainer.decay=linaer", "train --trainer json:loads", "train --sede 1",
    "sample", "sample nothing", "compare", "compare . .", "recommend", "recommend --latency-ms nan",
    "recommend --latency-ms -1", "report --results /nowhere/at/all", "report --out page.txt", "merge",
    "merge . --into x",
    "runs purne", "runs --older-than 30", "runs --states gone", "runs prune", "runs verify --trainers etl",
    "study extrapolation --preset nothing", "study extrapolation --seeds -1", "study extrapolation --seeds 3:1",
    "study extrapolation --workers -1", "study extrapolation --budget 2", "study extrapolation --backend troch",
    "study extrapolation --trainers etl", "study extrapolation --tasks ,", "study extrapolation --scheduler x",
    "study extrapolation --engine daks", "study extrapolation --devices -1", "study throughput --preset nothing",
    "study throughput --device cudda", "study audit --preset smoke",
]  # fmt: skip


@pytest.fixture(autouse=True)
def untrained(monkeypatch):
    """No command trains or times: each plans, and then finds nothing done."""

    def nothing(*_, **__):
        raise ValueError("a command was about to time networks")

    monkeypatch.setattr(train, "sweep", lambda *_, **__: Outcome())
    monkeypatch.setattr(study_command, "sweep", lambda *_, **__: Outcome())
    monkeypatch.setattr(study_command, "estimate", lambda groups, *rest: estimate([], *rest))
    monkeypatch.setattr(measuring, "measure", nothing)
    monkeypatch.setattr(recommending, "measured_seconds", nothing)


def line(command: str, random: Random) -> Iterator[str]:
    """A command with a few of its options, their values odd; sometimes an option of another command."""
    yield from command.split()
    for _ in range(random.randrange(4)):
        known = OPTIONS[command] if random.random() < 0.9 else OPTIONS[random.choice(list(OPTIONS))]
        if known:
            name = random.choice(known)
            yield random.choice((f"--{name}", f"--{name}", f"--no-{name}", f"--{name}={random.choice(TEXTS)}"))
        yield from random.choices(TEXTS, k=random.choice((0, 1, 1, 1, 2)))
    if command.startswith("study "):
        yield from ("--dry-run", "--results", "here")


@pytest.mark.slow
@pytest.mark.parametrize("command", OPTIONS)
def test_any_options_end_in_an_answer_or_a_refusal(place, runs, capsys, command):
    def cases():
        for name, random in drawn(command, 12):
            arguments = list(line(command, random))
            yield f"{name} {arguments}", lambda arguments=arguments: asked(capsys, arguments)

    tried(cases(), place)


def test_any_first_word_ends_in_an_answer_or_a_refusal(place, capsys):
    tried(((repr(text), lambda text=text: asked(capsys, [text])) for text in TEXTS), place)


@pytest.mark.slow
@pytest.mark.parametrize("command", REFUSED)
def test_what_a_command_forbids_is_refused(place, capsys, command):
    with watched(place), bounded():
        said = asked(capsys, command.split())
    assert said.code == 2
    assert said.out == ""


SIZES = [
    "sample {digits} --loops 1:100000",
    "sample {digits} --loops 1000000000",
    "sample {digits} --samples 100000000",
    "sample {digits} --steps 100000000",
    "train --architecture.unique-layers 1000000",
    "train --architecture.max-loops 1000000000",
    "train --architecture.width 100000000",
    "study extrapolation --seeds 0:1000000000",
]


@pytest.mark.parametrize("command", SIZES)
def test_a_size_that_fits_no_machine_is_refused_at_once(place, runs, trained, capsys, command):
    with watched(place), bounded():
        said = asked(capsys, command.format(digits=run_id(TRAINED["digits"])).split())
    assert said.code == 2
