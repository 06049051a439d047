"""The command `eltbench list`, apart from the others because it needs none of their libraries."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Sequence
from importlib.machinery import PathFinder

from eltbench import backends, data, studies, tasks, trainers
from eltbench.core.terminal import cut
from eltbench.studies.presets import described_presets


def list_names(arguments: Sequence[str]) -> int:
    """Print every registered name with a line of text, and under each study its presets with theirs."""
    if arguments:
        raise ValueError(f"list takes no arguments, given {list(arguments)}")
    for registry in (trainers.registry, tasks.registry, data.registry, backends.registry, studies.registry):
        print(f"{registry.plural}:")
        width = max(map(len, registry.names()), default=0)
        for name in registry.names():
            target = registry.target(name)
            print(cut(f"  {name:{width}}  {first_sentence(target) or target}"))
            if registry is studies.registry:
                for preset, about in described_presets(name).items():
                    print(cut(f"    {preset:16} {about}".rstrip()))
    return 0


def first_sentence(target: str) -> str:
    """The first sentence of the docstring of "module:Class", read from its source: nothing is imported.

    Empty where there is no source or no docstring.
    """
    module, _, name = target.partition(":")
    try:
        body = ast.parse(_source(module)).body
    except (ImportError, OSError, SyntaxError, ValueError):
        return ""
    found = next((node for node in body if isinstance(node, ast.ClassDef) and node.name == name), None)
    paragraph = ((ast.get_docstring(found) if found else None) or "").partition("\n\n")[0]
    return re.split(r"(?<=\.)\s+(?=[A-Z])", " ".join(paragraph.split()), maxsplit=1)[0]


def _source(module: str) -> str:
    """The source of a module, found without importing the packages that it is in."""
    names = module.split(".")
    spec = importlib.util.find_spec(names[0])
    for end in range(2, len(names) + 1):
        spec = spec and PathFinder.find_spec(".".join(names[:end]), spec.submodule_search_locations)
    found = getattr(spec and spec.loader, "get_source", None)
    return (found(module) if found else None) or ""
