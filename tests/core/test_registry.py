"""Names: registered by decorator, by lazy string and by an installed package's entry points."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest

from eltbench import data, tasks, trainers
from eltbench.core.registry import Registry, UnknownNameError, allow

PLUGIN = {
    "loopzoo/__init__.py": "",
    "loopzoo/trainer.py": """
from dataclasses import dataclass
from eltbench.trainers import Trainer, register

@register("first-exit", version=3)
@dataclass(frozen=True)
class FirstExit(Trainer):
    depth = "looped"
    weight: float = 1.0

    def exits(self, architecture, rng):
        return 1, architecture.max_loops

    def objective(self, outputs, batch, progress, task, ops):
        return {"first": self.weight * task.loss(outputs[0], batch, ops)}
""",
    "loopzoo/task.py": """
from eltbench.tasks.masked import Masked

class Unmasked(Masked):  # without the decorator: its name is the entry point's, not its parent's
    version = 5
""",
    "loopzoo/dataset.py": """
from dataclasses import dataclass
import numpy as np
from eltbench.data import Clean, Dataset, DataSpec, register

@register("coins")
@dataclass(frozen=True)
class Coins(Dataset):
    coins: int = 3

    @property
    def spec(self):
        return DataSpec("tokens", (1, self.coins), vocabulary=2)

    def batch(self, rng, size):
        return Clean(rng.integers(2, size=(size, self.coins), dtype=np.int32), np.zeros(size, np.int32))

    def training(self):
        return self.batch(np.random.default_rng(0), 8)

    def heldout(self):
        return self.batch(np.random.default_rng(1), 8)
""",
    "loopzoo-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: loopzoo\nVersion: 1.0\n",
    "loopzoo-1.0.dist-info/entry_points.txt": """
[eltbench.trainers]
first-exit = loopzoo.trainer:FirstExit
[eltbench.tasks]
unmasked = loopzoo.task:Unmasked
[eltbench.datasets]
coins = loopzoo.dataset:Coins
""",
}

QUESTIONS = """
import json, sys
import numpy as np
import eltbench
from eltbench import data, tasks, trainers
from eltbench.training.identity import run_id

names = {"trainer": trainers.names(), "task": tasks.names(), "dataset": data.names()}
loaded_by_listing = "loopzoo" in sys.modules
trainer, task = trainers.create("first-exit", weight=0.5), tasks.create("unmasked")
coins = data.create("coins", coins=4)
parent = tasks.get("masked")
try:
    trainers.get("first-exits")
except ValueError as error:
    near_miss = str(error)
print(json.dumps({
    "names": names,
    "loaded_by_listing": loaded_by_listing,
    "trainer": [trainer.name, trainer.version, trainer.weight],
    "task": [task.name, task.version, parent.name, parent.version],
    "dataset": [coins.name, coins.version, list(coins.batch(np.random.default_rng(0), 5).values.shape)],
    "near_miss": near_miss,
    "identity": run_id(eltbench.Run("first-exit", "unmasked", "coins")),
}))
"""


@pytest.fixture(scope="module")
def plugin_answers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plugin")
    for path, text in PLUGIN.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(text)
    path = os.pathsep.join([str(folder), *filter(None, sys.path)])
    command = [sys.executable, "-W", "error", "-c", QUESTIONS]
    process = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name", "builtin"),
    [("trainer", "first-exit", "elt"), ("task", "unmasked", "masked"), ("dataset", "coins", "digits")],
)
def test_an_installed_package_adds_names_beside_the_builtin_ones(plugin_answers, kind, name, builtin):
    assert {name, builtin} <= set(plugin_answers["names"][kind])


def test_listing_names_does_not_import_the_plugin(plugin_answers):
    assert not plugin_answers["loaded_by_listing"]


def test_classes_of_a_plugin_are_created_with_their_options_and_versions(plugin_answers):
    assert plugin_answers["trainer"] == ["first-exit", 3, 0.5]
    assert plugin_answers["dataset"] == ["coins", 1, [5, 4]]


def test_a_plugin_class_does_not_pass_for_its_registered_parent(plugin_answers):
    assert plugin_answers["task"] == ["unmasked", 5, "masked", tasks.get("masked").version]


def test_plugins_take_part_in_suggestions_and_identities(plugin_answers):
    assert "did you mean 'first-exit'?" in plugin_answers["near_miss"]
    assert len(plugin_answers["identity"]) == 16


def test_a_decorated_class_is_found_with_its_name_and_version():
    shapes: Registry = Registry("shape", "shapes")

    @shapes.register("round", version=2)
    @dataclass(frozen=True)
    class Round:
        radius: int = 1

    assert shapes.get("round") is Round
    assert (Round.name, Round.version) == ("round", 2)
    assert shapes.create("round", radius=3) == Round(3)


def test_a_lazy_string_is_imported_when_asked_for(tmp_path, monkeypatch):
    (tmp_path / "lazy_shapes.py").write_text("class Square: pass")
    monkeypatch.syspath_prepend(tmp_path)
    shapes: Registry = Registry("shape", "shapes")
    shapes.register("square", "lazy_shapes:Square")
    assert shapes.names() == ["square"]
    assert "lazy_shapes" not in sys.modules
    square = shapes.get("square")
    assert square is sys.modules["lazy_shapes"].Square
    assert (square.name, square.version) == ("square", 1)


@pytest.mark.parametrize(
    ("registry", "given", "meant"),
    [
        (trainers, "etl", "elt"),
        (trainers, "no_ilsd", "no-ilsd"),
        (trainers, "uniqe-depth", "unique-depth"),
        (tasks, "difusion", "diffusion"),
        (data, "digit", "digits"),
    ],
)
def test_an_unknown_name_suggests_the_near_miss_and_lists_the_known(registry, given, meant):
    with pytest.raises(UnknownNameError, match=f"{given!r}; did you mean {meant!r}\\?") as refusal:
        registry.get(given)
    assert all(name in str(refusal.value) for name in registry.names())


def test_a_name_like_no_other_gets_no_suggestion():
    with pytest.raises(UnknownNameError, match=r"unknown trainer 'xyzzy'; known: deep-supervision, .*elt, ") as refusal:
        trainers.get("xyzzy")
    assert "did you mean" not in str(refusal.value)


@pytest.mark.parametrize("name", ["elt", "no-ilsd"])
def test_a_name_that_is_taken_is_refused_and_keeps_its_class(name):
    before = trainers.get(name)
    with pytest.raises(ValueError, match=f"trainer {name!r} is already registered as .*; choose another name"):
        trainers.register(name)(type("Intruder", (), {}))
    with pytest.raises(ValueError, match="is already registered"):
        trainers.register(name, "intruder:Intruder")
    assert trainers.get(name) is before


def test_a_refused_class_is_not_renamed():
    intruder = type("Intruder", (), {})
    with pytest.raises(ValueError, match="is already registered"):
        trainers.register("elt")(intruder)
    assert not hasattr(intruder, "name")


def test_registering_one_class_twice_changes_nothing():
    elt = trainers.get("elt")
    assert trainers.register("elt", version=elt.version)(elt) is elt
    assert trainers.get("elt") is elt


def test_an_unknown_option_is_refused_with_the_near_miss():
    with pytest.raises(ValueError, match=r"dataset 'relay' field 'lenght'; did you mean 'length'\? known: "):
        data.create("relay", lenght=3)
    with pytest.raises(ValueError, match="unknown trainer 'elt' field 'depth'"):
        trainers.create("elt", depth="unique")


def test_a_name_of_the_form_module_class_leads_to_that_class(tmp_path, monkeypatch):
    (tmp_path / "my_trainers.py").write_text(
        "from eltbench.trainers.no_ilsd import NoILSD\n\n\nclass Mine(NoILSD):\n    version = 7\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    allow("my_trainers:Mine")
    assert trainers.get("my_trainers:Mine").version == 7
    assert trainers.create("my_trainers:Mine").name == "my_trainers:Mine"
    trainers.registry.check("my_trainers:Mine")


@pytest.mark.parametrize("name", ["no_such_module:Class", "eltbench.trainers.elt:NoSuchClass"])
def test_a_module_class_that_cannot_be_loaded_is_refused_with_the_reason(name):
    allow(name)
    with pytest.raises(UnknownNameError, match="cannot be loaded"):
        trainers.get(name)
