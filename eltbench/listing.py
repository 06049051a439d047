"""What `eltbench list` does; apart from the other commands, since it needs none of their libraries."""

from __future__ import annotations

from collections.abc import Sequence

from eltbench import backends, data, studies, tasks, trainers
from eltbench.studies.presets import preset_names


def list_names(arguments: Sequence[str]) -> int:
    """Print every registered name."""
    if arguments:
        raise ValueError(f"list takes no arguments, given {list(arguments)}")
    for registry in (trainers.registry, tasks.registry, data.registry, backends.registry):
        print(f"{registry.plural}: {', '.join(registry.names())}")
    for name in studies.names():
        presets = preset_names(name)
        print(f"study {name}, presets: {', '.join(presets)}" if presets else f"study {name}")
    return 0
