"""Names for the parts that users may add: trainers, tasks, datasets, backends, studies."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import is_dataclass
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from eltbench.fields import build, unknown

T = TypeVar("T")
C = TypeVar("C", bound=type)


class UnknownNameError(ValueError):
    """A name that no registry entry carries; the message suggests the nearest one."""


class Registry(Generic[T]):
    """Maps a name to a class, given directly, as a lazy "module:Class", or by an installed package's entry point.

    A name that is itself "module:Class" needs no registration: it leads to that class, wherever it can be imported.

    `version` belongs to what the class computes, not to its code style: raise it when the same configuration
    would train or measure something else, so that cached runs of the old behaviour are not mistaken for new ones.
    """

    def __init__(self, kind: str, plural: str, builtin: dict[str, str] | None = None) -> None:
        self.kind, self.plural = kind, plural
        self.group = f"eltbench.{plural}"  # of entry points
        self._entries: dict[str, type[T] | str] = dict(builtin or {})
        self._plugins_read = False

    def register(self, name: str, target: str | None = None, *, version: int = 1) -> Callable[[C], C]:
        """Register a class by decorator, or a lazy `target` "module:Class"; the name must be free or lead there."""
        if target is not None:
            self._add(name, target)

        def decorate(cls: C) -> C:
            self._add(name, cls)
            cls.name, cls.version = name, version  # type: ignore[attr-defined]
            return cls

        return decorate

    def get(self, name: str) -> type[T]:
        """The class registered under `name`; raises UnknownNameError with the near miss and the known names."""
        self.check(name)
        entry = self._entries.get(name, name)
        if isinstance(entry, str):
            module, _, attribute = entry.partition(":")
            try:
                entry = getattr(importlib.import_module(module), attribute)
            except (ImportError, AttributeError, SyntaxError) as error:
                raise UnknownNameError(f"{self.kind} {name!r} cannot be loaded: {error}") from error
            self._entries[name] = entry
            if "name" not in vars(entry):  # a lazy class that did not use the decorator; its parent may have
                entry.name, entry.version = name, vars(entry).get("version", 1)  # type: ignore[attr-defined]
        return entry

    def check(self, name: str) -> None:
        """Raise UnknownNameError unless `name` is registered or of the form "module:Class"; loads nothing."""
        self._read_plugins(unless=name)
        if name not in self._entries and ":" not in name:
            raise UnknownNameError(unknown(self.kind, name, self.names()))

    def create(self, name: str, **options: Any) -> T:
        """An instance of the class under `name`; an option that the class does not know raises ValueError."""
        cls = self.get(name)
        if missing := sorted(getattr(cls, "__abstractmethods__", ())):
            raise ValueError(f"{self.kind} {name!r} is not complete: it lacks {', '.join(missing)}")
        if is_dataclass(cls):
            return build(cls, options, f"{self.kind} {name!r}")
        if options:
            raise ValueError(unknown(f"option of {self.kind} {name!r}", next(iter(options)), []))
        return cls()

    def target(self, name: str) -> str:
        """Where the class under `name` is, as "module:Class"; loads nothing."""
        self.check(name)
        return _target(self._entries.get(name, name))

    def names(self) -> list[str]:
        """All registered names, in alphabetical order."""
        self._read_plugins()
        return sorted(self._entries)

    def _add(self, name: str, entry: type[T] | str) -> None:
        existing = self._entries.get(name)
        if existing is not None and _target(existing) != _target(entry):
            raise ValueError(f"{self.kind} {name!r} is already registered as {_target(existing)}; choose another name")
        self._entries[name] = entry

    def _read_plugins(self, unless: str | None = None) -> None:
        if self._plugins_read or unless in self._entries:
            return
        self._plugins_read = True
        for point in entry_points(group=self.group):
            self._add(point.name, point.value)


def _target(entry: type | str) -> str:
    if isinstance(entry, str):
        return entry
    module = entry.__module__
    if module == "__main__":  # run as `python -m package.module`, which its lazy entry names by its real name
        module = getattr(sys.modules["__main__"].__spec__, "name", module)
    return f"{module}:{entry.__qualname__}"
