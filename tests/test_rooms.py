"""The house: which rooms there are, that imports run one way, and that a file's name is its own."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

import eltbench

PACKAGE = Path(eltbench.__file__).parent
ROOMS = (
    "core",
    "data",
    "tasks",
    "accounting",
    "trainers",
    "backends",
    "training",
    "evidence",
    "evaluation",
    "studies",
    "execution",
    "cli",
)
"""From the ground up: a room imports itself and those before it."""
FILES = sorted(path for path in PACKAGE.rglob("*.py"))
SHARED_NAMES = {"__init__", "__main__", "base", "study", "claims", "tables", "figure"}
"""Names that say what a file is in its room: the room's face, its door, its contract, and the parts of a study."""


def module(path: Path) -> str:
    """The dotted name of a file's module."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path): path for path in FILES}


def imported(path: Path) -> set[str]:
    """Every module of the package that a file imports, at its top, in a function, or for types alone."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports by relative name"
            names |= {
                full if (full := f"{node.module}.{alias.name}") in MODULES else str(node.module) for alias in node.names
            }
    return {name for name in names if name in MODULES}


def room(name: str) -> str:
    """The room of a module; a `__main__` is a door that the command line opens, whatever folder it stands in."""
    parts = name.split(".")
    return "cli" if parts[-1] == "__main__" else parts[1] if len(parts) > 1 else ""


def test_the_root_holds_three_files_and_the_twelve_rooms():
    assert {path.name for path in PACKAGE.iterdir() if path.is_file()} == {"__init__.py", "__main__.py", "py.typed"}
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))} == set(ROOMS)


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=module)
def test_imports_run_one_way(path):
    here = room(module(path))
    if not here:
        return  # the package's face hands on names of every room
    above = {name for name in imported(path) if room(name) and ROOMS.index(room(name)) > ROOMS.index(here)}
    assert not above


@pytest.mark.slow
def test_no_modules_import_one_another_in_a_circle():
    arrows = {name: imported(path) - {name, "eltbench"} for name, path in MODULES.items()}
    arrows = {name: {to for to in its if not name.startswith(f"{to}.")} for name, its in arrows.items()}
    left = dict(arrows)
    while free := [name for name, its in left.items() if not its & set(left)]:
        for name in free:
            del left[name]
    assert not left


def test_every_room_says_what_lives_there():
    for path in FILES:
        if path.name == "__init__.py":
            first = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]
            assert first.endswith((".", "?")), path


def test_no_two_files_have_one_name_but_those_that_say_what_they_are():
    names = Counter(
        path.stem for path in FILES if path.parts[-3:-1] not in (("backends", "torch"), ("backends", "jax"))
    )
    assert not {name for name, count in names.items() if count > 1} - SHARED_NAMES
