"""Trainers: one a file, written once for all backends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eltbench.core.registry import Registry, lazy

if TYPE_CHECKING:
    from eltbench.trainers.base import Trainer

registry: Registry[Trainer] = Registry(
    "trainer",
    "trainers",
    {
        "deep-supervision": "eltbench.trainers.deep_supervision:DeepSupervision",
        "deq": "eltbench.trainers.deq:DEQ",
        "elt": "eltbench.trainers.elt:ELT",
        "no-ilsd": "eltbench.trainers.no_ilsd:NoILSD",
        "progressive": "eltbench.trainers.progressive:Progressive",
        "random-loops": "eltbench.trainers.random_loops:RandomLoops",
        "trm": "eltbench.trainers.trm:TRM",
        "unique-depth": "eltbench.trainers.unique_depth:UniqueDepth",
        "universal-transformer": "eltbench.trainers.universal_transformer:UniversalTransformer",
    },
    base="eltbench.trainers.base:Trainer",
)
__getattr__ = lazy(__name__, "base", "Trainer")
register, get, create, names = registry.register, registry.get, registry.create, registry.names

__all__ = ["Trainer", "create", "get", "names", "register", "registry"]
