"""Tasks: what one network call predicts and how samples are drawn."""

from eltbench.core.registry import Registry
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
register, get, create, names = registry.register, registry.get, registry.create, registry.names

__all__ = ["Batch", "ExitOutput", "Ops", "Task", "create", "get", "names", "register", "registry"]
