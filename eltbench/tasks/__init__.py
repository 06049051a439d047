"""Tasks: what one network call predicts and how samples are drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eltbench.core.registry import Registry, lazy

if TYPE_CHECKING:
    from eltbench.tasks.base import Batch, ExitOutput, Ops, Task

registry: Registry[Task] = Registry(
    "task",
    "tasks",
    {
        "masked": "eltbench.tasks.masked:Masked",
        "diffusion": "eltbench.tasks.diffusion:Diffusion",
    },
    base="eltbench.tasks.base:Task",
)
__getattr__ = lazy(__name__, "base", "Batch", "ExitOutput", "Ops", "Task")
register, get, create, names = registry.register, registry.get, registry.create, registry.names

__all__ = ["Batch", "ExitOutput", "Ops", "Task", "create", "get", "names", "register", "registry"]
