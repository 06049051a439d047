"""A run's identity: everything that decides its weights, and nothing else."""

import json
import os
import platform
import socket
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType

import pytest

from eltbench import data, studies, tasks, trainers
from eltbench.backends import torch as torch_room
from eltbench.core.config import Architecture, Optimisation, Run
from eltbench.core.registry import UnknownNameError, allow
from eltbench.evidence import results
from eltbench.studies.presets import preset_from_dict
from eltbench.training.identity import run_id

PUBLISHED = Path(__file__).parents[2] / "results"
RUN = Run("elt", "masked", "digits-codes", architecture=Architecture(residual_scale="loops", input_injection=True))

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
    "residual_scale": "layers",
    "attention_radius": 2,
    "recall": "inside",
    "positions": "rotary",
    "dropout": 0.1,
    "schedule": "cosine",
    "decayed": "matrices",
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


@pytest.mark.slow
def test_the_identity_is_the_same_in_every_process(tmp_path):
    """Other hash seeds, another directory, host name and user, options in another order."""
    code = """
from eltbench.core.config import Architecture, Run
from eltbench.training.identity import run_id
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
    assert run_id(replace(RUN, devices=1, architecture=Architecture())) == "bf845e8859b54b40"
    assert run_id(replace(RUN, devices=2)) != run_id(RUN)


# Options


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({}, {"trainer_options": {"decay": "linear"}}),
        ({}, {"dataset_options": {"codes": 64}}),
        ({"task": "diffusion", "dataset": "digits"}, {"task_options": {"bias": -3, "log_snr_max": 15}}),
    ],
)
def test_a_default_that_is_given_is_the_same_run(changes, options):
    part = next(iter(options)).removesuffix("_options")
    registry = {"trainer": trainers, "task": tasks, "dataset": data}[part]
    run = replace(RUN, **changes)
    made = registry.create(getattr(run, part), **options[f"{part}_options"])
    assert made == registry.create(getattr(run, part))
    assert run_id(replace(run, **options)) == run_id(run)


def test_a_whole_number_stands_for_the_decimal_that_a_field_takes():
    run = replace(RUN, trainer="universal-transformer")
    whole, decimal, other = (replace(run, trainer_options={"ponder_cost": cost}) for cost in (1, 1.0, 2))
    assert run_id(whole) == run_id(decimal) != run_id(other)
    assert isinstance(trainers.create("universal-transformer", ponder_cost=1).ponder_cost, float)


@pytest.mark.slow
def test_no_published_run_was_named_anew():
    """Every run whose rows are published is planned, under its id, by the presets that its command ran."""
    folders = [path.parent for path in PUBLISHED.glob("*/*/rows.parquet")]
    trained = [folder for folder in folders if folder.parent.name not in ("audit", "throughput")]
    assert len(trained) >= 15
    for folder in trained:
        commands = json.loads((folder / "provenance.json").read_text())["commands"]
        study = studies.create(folder.parent.name)
        presets = [preset_from_dict(preset) for command in commands for preset in command["presets"]]
        planned = {job.run_id for preset in presets for job in study.plan(preset)}
        assert set(results.read_columns(folder / "rows.parquet", ["run_id"])["run_id"]) == planned, folder


# What a user's own classes compute, and what their files hold

OWN = """
import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from eltbench.data.relay import Relay
from eltbench.tasks.masked import Masked
from eltbench.trainers.no_ilsd import NoILSD


@dataclass(frozen=True)
class Table(Relay):
    version = 1
    path: str = field(default="", metadata={"location": True})

    def fingerprint(self):
        return hashlib.sha256(Path(self.path).read_bytes()).hexdigest()


class Base(NoILSD):
    weight = 1


class Trained(Base):
    version = 1


class Solved(Masked):
    version = 1
"""


def imported(folder, text, **names):
    """The id of a run of the classes in a module of this text, in a folder of its own."""
    folder.mkdir(exist_ok=True)
    (folder / "own_parts.py").write_text(text)
    code = "import json, sys\nfrom eltbench import Run\nfrom eltbench.core import registry\n"
    code += "from eltbench.training.identity import run_id\n"
    code += "run = json.load(sys.stdin)\nregistry.allow_named(run.values())\nprint(run_id(Run(**run)))"
    run = {"trainer": "elt", "task": "masked", "dataset": "relay", **names}
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, input=json.dumps(run), capture_output=True, text=True, timeout=120
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "name", "before", "after"),
    [
        ("trainer", "Trained", "class Trained(Base):\n", "class Trained(Base):\n    weight = 2\n"),
        ("trainer", "Trained", "weight = 1", "weight = 2"),
        ("task", "Solved", "class Solved(Masked):\n", "class Solved(Masked):\n    weight = 2\n"),
    ],
)
def test_a_class_of_the_same_name_in_another_project_is_another_run(tmp_path, part, name, before, after):
    given = {part: f"own_parts:{name}"}
    first, same, other = (
        imported(tmp_path / place, text, **given)
        for place, text in (("a", OWN), ("b", f"# moved\n\n{OWN}"), ("c", OWN.replace(before, after)))
    )
    assert first == same != other


@pytest.fixture
def table(tmp_path, monkeypatch):
    """A dataset of a file, working in the folder that holds it; gives the id of its run at a path."""
    (tmp_path / "own_tables.py").write_text(OWN)
    (tmp_path / "items.csv").write_text("1,2,3")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_tables", raising=False)
    monkeypatch.chdir(tmp_path)
    allow("own_tables:Table")
    return lambda path, **more: run_id(
        replace(RUN, dataset="own_tables:Table", dataset_options={"path": str(path), **more})
    )


def test_the_content_of_files_decides_and_not_the_spelling_of_their_path(table, tmp_path):
    (tmp_path / "copy.csv").write_text("1,2,3")
    assert table("items.csv") == table(tmp_path / "items.csv") == table("copy.csv")
    assert table("items.csv", length=8) != table("items.csv")


def test_a_changed_file_is_another_run(table, tmp_path):
    before = table("items.csv")
    (tmp_path / "items.csv").write_text("1,2,4")
    assert table("items.csv") != before


def test_what_a_generator_makes_follows_from_its_options_and_version():
    made = [data.create(name) for name in data.names() if not name.endswith("-file")]
    assert {world.fingerprint() for world in made} == {""}


def test_files_that_cannot_be_read_are_a_plain_message(table):
    with pytest.raises(ValueError, match=r"the files of dataset 'own_tables:Table' cannot be read: .*gone\.csv"):
        table("gone.csv")


@pytest.mark.parametrize("backend", ["no-such", "torch.engine", "base", "../torch"])
def test_a_backend_that_is_none_is_refused_by_name(backend):
    with pytest.raises(UnknownNameError, match=f"unknown backend '{backend}'.*known: jax, torch"):
        run_id(replace(RUN, backend=backend))


@pytest.mark.slow
def test_a_study_of_eltbench_s_that_is_run_as_a_module_is_still_its_own(tmp_path):
    """Its class is never one of __main__, whose source would be hashed as a plug-in's."""
    (tmp_path / "planned.py").write_text(
        "import runpy\nfrom eltbench import studies\nfrom eltbench.cli import run_study\n"
        "from eltbench.training.identity import source\n"
        "run_study.main = lambda name: print(repr(source(type(studies.create(name)))))\n"
        "runpy._run_module_as_main('eltbench.studies.extrapolation')\n"
    )
    answer = subprocess.run([sys.executable, tmp_path / "planned.py"], capture_output=True, text=True, timeout=120)
    assert answer.stdout.strip() == "''", answer.stderr
