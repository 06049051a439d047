"""What importing the package loads."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import eltbench

PACKAGE = Path(eltbench.__file__).parent
ROOMS = {"torch": {"torch", "torchvision", "torch_fidelity"}, "jax": {"jax", "jaxlib", "equinox", "optax"}}
FRAMEWORKS = ROOMS["torch"] | ROOMS["jax"]

NOT_WHEN_IMPORTED = ("TYPE_CHECKING", "__name__ == '__main__'")


def ask(code: str) -> str:
    process = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


def imports_at_module_level(path: Path) -> set[str]:
    """Full names of the modules that importing this file imports."""
    names: set[str] = set()
    pending = list(ast.parse(path.read_text()).body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.If) and ast.unparse(node.test) in NOT_WHEN_IMPORTED:
            pending += node.orelse
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            pending += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
    return names


MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def test_importing_the_package_loads_no_library():
    loaded = ask("import sys, eltbench; print(*{name.partition('.')[0] for name in sys.modules})").split()
    assert "eltbench" in loaded
    assert not {*FRAMEWORKS, "numpy", "pandas", "tyro"} & set(loaded)


@pytest.mark.slow
def test_a_training_step_does_not_load_the_compiler():
    """It would take a second and more in each of a sweep's many processes."""
    assert (
        "torch._dynamo"
        not in ask("""
import sys, tempfile
from pathlib import Path
from eltbench.core.config import Architecture, Optimisation, Run
from eltbench.training.loop import fit
shape = Architecture(unique_layers=1, max_loops=2, width=8, heads=2, block="bert")
brief = Optimisation(steps=2, batch_size=4, label_dropout=0)
run = Run("elt", "masked", "relay", architecture=shape, optimisation=brief)
fit(run, Path(tempfile.mkdtemp()) / "run")
print(*sys.modules)
""").split()
    )


@pytest.mark.slow
def test_naming_describing_and_identifying_runs_loads_neither_torch_nor_jax():
    loaded = ask("""
import sys
import eltbench
from eltbench.training.identity import run_id
assert "elt" in eltbench.trainers.names()
for registry in (eltbench.trainers, eltbench.tasks, eltbench.data):
    for name in registry.names():
        if not name.endswith("-file"):  # which needs a file
            registry.create(name)
run_id(eltbench.Run("elt", "masked", "digits-codes"))
print(*{name.partition('.')[0] for name in sys.modules})
""").split()
    assert not FRAMEWORKS & set(loaded)


def test_the_registries_are_there_after_a_plain_import():
    names = ask("import eltbench; print(*eltbench.trainers.names())").split()
    assert {"elt", "no-ilsd", "unique-depth", "universal-transformer"} <= set(names)


@pytest.mark.parametrize("name", eltbench.__all__)
def test_every_public_name_is_there(name):
    assert getattr(eltbench, name) is not None
    assert name in dir(eltbench)


def test_the_lazy_names_are_those_of_their_modules():
    from eltbench.evidence import results
    from eltbench.training import model

    assert eltbench.load_rows is results.load_rows
    assert eltbench.load_model is model.load_model


def test_an_unknown_attribute_is_refused_with_the_public_names():
    with pytest.raises(AttributeError, match=r"no attribute 'load_row'; public names: .*load_rows"):
        eltbench.load_row  # noqa: B018


def test_the_version_is_that_of_the_distribution():
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    assert eltbench.__version__ == project["version"]


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_only_a_backends_own_room_imports_its_framework(path):
    imported = imports_at_module_level(PACKAGE / path)
    outside = {part for name in imported if not name.startswith("eltbench") for part in name.split(".")}
    room = path.parts[1] if path.parts[0] == "backends" else ""
    assert not outside & (FRAMEWORKS - ROOMS.get(room, set()))
    for other in ROOMS.keys() - {room}:
        assert not {name for name in imported if name.startswith(f"eltbench.backends.{other}.")}
