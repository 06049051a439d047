"""The source of classes that no file holds, and the module that other processes make of it."""

from __future__ import annotations

import linecache
import sys
from itertools import count

import pytest

from eltbench import data, trainers
from eltbench.core import registry, session
from eltbench.core.registry import SESSION, UnknownNameError
from eltbench.training.identity import source

NUMBERS = count()
IMPORTS = """
from dataclasses import dataclass
import math as m
from typing import ClassVar
from eltbench import trainers
from eltbench.trainers import Trainer, register
FACTOR, TEXTS, OBJECT = 2.5, ("a", "b"), object()
"""
MINE = '''@dataclass(frozen=True)
class Mine(Trainer):
    """One exit."""

    depth: ClassVar[str] = "looped"
    strength: float = 1.0

    def exits(self, architecture, rng):
        return (architecture.max_loops,)

    def objective(self, outputs, batch, progress, task, ops):
        OBJECT = TEXTS  # a variable of its own
        return {OBJECT[0]: scaled(3.0) * self.strength}
'''
SCALED = "def scaled(x):\n    return FACTOR * m.sqrt(x) if x else scaled(1.0)\n"


def cell(text: str, space: dict) -> None:
    """Run a text as a notebook does: its source can be read though no file holds it."""
    place = f"<cell-{next(NUMBERS)}>"
    linecache.cache[place] = (len(text), None, text.splitlines(keepends=True), place)
    exec(compile(text, place, "exec", dont_inherit=True), space)


@pytest.fixture
def space(monkeypatch):
    """The names of a session, with a trainer of its own; what it registers is forgotten."""
    for its in (trainers.registry, data.registry):
        monkeypatch.setattr(its, "_entries", dict(its._entries))
    monkeypatch.setattr(registry, "_received", {})
    monkeypatch.delitem(sys.modules, SESSION, raising=False)
    space: dict = {"__name__": "no_such_module"}
    for text in (IMPORTS, SCALED, f"rows = 1\n{MINE}\nafter = 2\n"):
        cell(text, space)
    yield space
    sys.modules.pop(SESSION, None)


def test_the_source_of_a_class_in_a_cell_is_its_text(space):
    assert session.source_text(space["Mine"]) == MINE
    first = source(space["Mine"])
    cell(MINE.replace("One exit", "Another"), space)
    assert source(space["Mine"]) != first != ""


def test_a_class_of_a_module_needs_no_source_and_one_of_a_cell_does(space):
    assert session.belongs(space["Mine"])
    assert not session.belongs(trainers.get("elt"))


def test_the_module_defines_the_class_and_what_it_names_and_nothing_else(space):
    text, refused = session.written([space["Mine"]])
    assert refused == {}
    there = vars(session.opened(SESSION, text))
    assert {"OBJECT", "rows", "after", "register"} & set(there) == set()
    (value,) = there["Mine"](strength=2.0).objective([], None, 0.0, None, None).values()
    assert value == 2 * 2.5 * 3**0.5


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            MINE.replace("scaled(3.0)", "len(str(OBJECT))").replace("OBJECT = TEXTS", "0"),
            "it uses OBJECT, of type object",
        ),
        ("class Mine(Trainer):\n    depth = 'looped'\n", "define it in a cell, with a method, or in a module file"),
    ],
)
def test_a_class_that_cannot_be_written_down_says_why_where_it_is_looked_up(space, text, reason):
    cell(text, space)
    trainers.register("mine")(space["Mine"])
    registry.receive(registry.handed_on())
    with pytest.raises(UnknownNameError, match=f"trainer 'mine' cannot be loaded: .*{reason}"):
        trainers.get("mine")


def test_a_class_without_any_source_is_refused(space):
    exec("class Mine(Trainer):\n    def exits(self): ...\n", space)
    assert "the source of Mine cannot be read" in session.written([space["Mine"]])[1]["Mine"]


def test_what_was_registered_is_found_by_the_process_that_is_told(space):
    trainers.register("mine", version=7)(space["Mine"])
    trainers.register("lazy", "eltbench.trainers.elt:ELT", version=1)
    told, before = registry.handed_on(), source(space["Mine"])
    assert "eltbench" not in told["registered"]["trainers"]["mine"][0].partition(":")[2]
    del trainers.registry._entries["mine"], trainers.registry._entries["lazy"]
    registry.receive(told)
    found = trainers.get("mine")
    assert found is not space["Mine"]
    assert (found.name, found.version, source(found)) == ("mine", 7, before)
    assert {"mine", "lazy"} <= set(trainers.names())
    assert trainers.get("lazy") is trainers.get("elt")
    assert registry.handed_on() == told  # to processes of its own


def test_a_decorated_class_registers_itself_there_too(space):
    cell(f'@trainers.register("mine", version=3)\n{MINE}', space)
    told = registry.handed_on()
    del trainers.registry._entries["mine"]
    registry.receive(told)
    assert (trainers.get("mine").name, trainers.create("mine", strength=2).strength) == ("mine", 2.0)
    assert trainers.get("mine").version == 3


def test_a_dataset_and_a_trainer_share_the_module_of_their_session(space):
    cell("from eltbench.data.digits import Digits\n", space)
    own = '@register_data("dim")\nclass Dim(Digits):\n    def batch(self, rng, size):\n        return FACTOR\n'
    space["register_data"] = data.register
    cell(own, space)
    trainers.register("mine")(space["Mine"])
    told = registry.handed_on()
    assert told["session"].count("FACTOR = 2.5") == 1
    del data.registry._entries["dim"], trainers.registry._entries["mine"]
    registry.receive(told)
    assert {data.get("dim").__module__, trainers.get("mine").__module__} == {SESSION}
    assert data.create("dim").batch(None, 1) == 2.5


def test_nothing_is_handed_on_where_nothing_was_registered(monkeypatch):
    monkeypatch.setattr(registry, "_registries", {"trainers": trainers.registry})
    monkeypatch.setattr(trainers.registry, "_entries", dict.fromkeys(trainers.registry.builtin, ""))
    told = registry.handed_on()
    assert (told["registered"], told["session"], told["refused"]) == ({}, "", {})
