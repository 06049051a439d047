"""The lowest versions that pyproject.toml allows, as lines for pip: what `make floors` installs and runs.

python tests/floors.py jax    # the dependencies, and those of the extra jax
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def floors(*extras: str) -> list[str]:
    """`name==version` of every dependency that has a floor; raises ValueError for one without."""
    extra = PROJECT["optional-dependencies"]
    lines = []
    for text in (*PROJECT["dependencies"], *(line for name in extras for line in extra[name])):
        requirement = Requirement(text)
        lowest = [each.version for each in requirement.specifier if each.operator == ">="]
        if len(lowest) != 1:
            raise ValueError(f"pyproject.toml: {text!r} must say the lowest version that is tested, as name>=version")
        lines.append(f"{requirement.name}=={lowest[0]}")
    return lines


if __name__ == "__main__":
    print("\n".join(floors(*sys.argv[1:])))
