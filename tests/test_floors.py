"""The lowest versions that pyproject.toml allows are those that `make floors` installs and runs."""

import re
from pathlib import Path

from floors import PROJECT, floors
from packaging.version import Version

ROOT = Path(__file__).parents[1]


def test_every_dependency_has_a_floor_that_ci_runs():
    lines = floors("jax")
    assert len(lines) == len(PROJECT["dependencies"]) + len(PROJECT["optional-dependencies"]["jax"])
    assert all(re.fullmatch(r"[\w-]+==[\d.]+", line) for line in lines)
    assert "make floors" in (ROOT / ".ci" / "run").read_text()


def test_no_floor_is_above_what_the_tests_run_with():
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    known = {name.lower().replace("_", "-"): Version(it) for name, it in pinned.items()}
    for line in floors("jax"):
        name, _, lowest = line.partition("==")
        assert Version(lowest) <= known[name.lower()], line
