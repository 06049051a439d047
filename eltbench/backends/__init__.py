"""Backends: one room per framework, with the same names inside. Importing this loads none of them."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from eltbench.core.registry import Registry, lazy

if TYPE_CHECKING:
    from eltbench.backends.base import Engine, Seeds, check_exits

EXTRAS = {"jax": ("jax", "equinox", "optax")}
"""The libraries of the backends that are an extra of the package, which has the backend's name."""


class Backends(Registry["Engine"]):
    """The registry of backends, which knows what each needs installed."""

    def check(self, name: str) -> None:
        """As in any registry; raises ValueError, too, where the backend's libraries are missing, and loads nothing."""
        super().check(name)
        if missing := [library for library in EXTRAS.get(name, ()) if find_spec(library) is None]:
            raise ValueError(
                f"backend {name!r} needs {', '.join(missing)}, not installed here: pip install 'eltbench[{name}]'"
            )


registry = Backends(
    "backend",
    "backends",
    {"jax": "eltbench.backends.jax.engine:JaxEngine", "torch": "eltbench.backends.torch.engine:TorchEngine"},
    base="eltbench.backends.base:Engine",
)
__getattr__ = lazy(__name__, "base", "Engine", "Seeds", "check_exits")
get, names = registry.get, registry.names

vectorised: Registry[Seeds] = Registry(
    "backend with vectorised seeds", "vectorised", {"jax": "eltbench.backends.jax.seeds:JaxSeeds"}
)
"""How a backend trains several seeds as one program, where it can."""

__all__ = ["Engine", "Seeds", "check_exits", "get", "names", "registry", "vectorised"]
