"""A run's identity: everything that decides its weights, and nothing else."""

import os
import platform
import socket
import subprocess
import sys
from dataclasses import fields, replace
from types import ModuleType

import pytest

from eltbench import data, tasks, trainers
from eltbench.backends import torch as torch_room
from eltbench.config import Architecture, Optimisation, Run
from eltbench.identity import run_id

RUN = Run("elt", "masked", "digits-codes")

OTHER = {
    "trainer": "no-ilsd",
    "task": "diffusion",
    "dataset": "digits",
    "trainer_options": {"option": 1},
    "task_options": {"option": 1},
    "dataset_options": {"codes": 256},
    "backend": "other",
    "device": "cuda",
    "precision": "bf16",
    "block": "bert",
    "norm": "sandwich",
    "attention_radius": 2,
    "dropout": 0.1,
    "schedule": "cosine",
    "betas": (0.9, 0.95),
    "width": 128,
    "heads": 2,
}


def _other(owner, name):
    """A valid value of a field that differs from its default; a field of a new kind must be added to OTHER."""
    value = getattr(owner, name)
    if name in OTHER:
        return OTHER[name]
    return not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else value / 2


CHANGES = [
    *(f"run.{field.name}" for field in fields(Run) if field.name not in ("architecture", "optimisation")),
    *(f"architecture.{field.name}" for field in fields(Architecture)),
    *(f"optimisation.{field.name}" for field in fields(Optimisation)),
]


def changed(path):
    part, name = path.split(".")
    if part == "run":
        return replace(RUN, **{name: _other(RUN, name)})
    owner = getattr(RUN, part)
    return replace(RUN, **{part: replace(owner, **{name: _other(owner, name)})})


@pytest.fixture
def other_backend(monkeypatch):
    room = ModuleType("eltbench.backends.other")
    room.NETWORK_VERSION, room.ENGINE_VERSION = torch_room.NETWORK_VERSION, torch_room.ENGINE_VERSION
    monkeypatch.setitem(sys.modules, room.__name__, room)


@pytest.mark.parametrize("path", CHANGES)
def test_the_identity_changes_with_every_field(path, other_backend):
    assert changed(path) != RUN
    assert run_id(changed(path)) != run_id(RUN)


def test_no_two_single_changes_share_an_identity(other_backend):
    assert len({run_id(changed(path)) for path in CHANGES} | {run_id(RUN)}) == len(CHANGES) + 1


@pytest.mark.parametrize(
    "part",
    [(trainers, "elt"), (tasks, "masked"), (data, "digits-codes")],
    ids=lambda part: part[1],
)
def test_the_identity_changes_with_the_version_of_each_part(part, monkeypatch):
    registry, name = part
    before = run_id(RUN)
    monkeypatch.setattr(registry.get(name), "version", registry.get(name).version + 1)
    assert run_id(RUN) != before


@pytest.mark.parametrize("name", ["NETWORK_VERSION", "ENGINE_VERSION"])
def test_the_identity_changes_with_the_version_of_network_and_engine(name, monkeypatch):
    before = run_id(RUN)
    monkeypatch.setattr(torch_room, name, getattr(torch_room, name) + 1)
    assert run_id(RUN) != before


def test_the_identity_does_not_depend_on_other_parts_versions(monkeypatch):
    before = run_id(RUN)
    monkeypatch.setattr(trainers.get("no-ilsd"), "version", 99)
    assert run_id(RUN) == before


def test_the_identity_does_not_depend_on_the_order_or_form_of_options():
    options = [("length", 8), ("gates", "cyclic"), ("strips", 2)]
    given = [tuple(options), tuple(reversed(options)), dict(options)]
    assert len({run_id(replace(RUN, dataset="relay", dataset_options=form)) for form in given}) == 1


def test_the_identity_does_not_depend_on_how_a_number_is_written():
    whole, decimal = (replace(RUN, optimisation=Optimisation(gradient_clip=clip)) for clip in (1, 1.0))
    assert run_id(whole) == run_id(decimal)


def test_the_identity_does_not_depend_on_the_host(monkeypatch):
    before = run_id(RUN)
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    monkeypatch.setattr(platform, "node", lambda: "elsewhere")
    monkeypatch.setattr(os, "cpu_count", lambda: 1024)
    assert run_id(RUN) == before


def test_the_identity_is_the_same_in_every_process(tmp_path):
    """Other hash seeds, another directory, host name and user, options in another order."""
    code = """
from eltbench.config import Architecture, Run
from eltbench.identity import run_id
print(run_id(Run("elt", "masked", "relay", architecture=Architecture(width=32), dataset_options=OPTIONS)))
"""
    options = {"length": 8, "gates": 6, "strips": 2}
    root = os.pathsep.join(os.path.abspath(folder) for folder in filter(None, sys.path))
    expected = run_id(Run("elt", "masked", "relay", architecture=Architecture(width=32), dataset_options=options))
    for seed in ("1", "2"):
        options = dict(reversed(options.items()))
        environment = os.environ | {
            "PYTHONHASHSEED": seed,
            "HOSTNAME": f"host-{seed}",
            "USER": seed,
            "PYTHONPATH": root,
        }
        command = [sys.executable, "-c", code.replace("OPTIONS", repr(options))]
        answer = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True, timeout=60
        )
        assert answer.stdout.strip() == expected


def test_an_identity_is_sixteen_hexadecimal_digits():
    assert len(run_id(RUN)) == 16
    assert set(run_id(RUN)) <= set("0123456789abcdef")


def test_a_field_added_later_keeps_the_names_of_the_runs_before_it():
    """The id of this run before `devices` existed."""
    assert run_id(replace(RUN, devices=1)) == "bf845e8859b54b40"
    assert run_id(replace(RUN, devices=2)) != run_id(RUN)
