"""Backends: one room per framework, with the same names inside. Importing this loads none of them."""

from eltbench.backends.base import Engine, check_exits
from eltbench.registry import Registry

registry: Registry[Engine] = Registry("backend", "backends", {"torch": "eltbench.backends.torch.engine:TorchEngine"})
get, names = registry.get, registry.names

__all__ = ["Engine", "check_exits", "get", "names", "registry"]
