"""Names for the parts that users may add: trainers, tasks, datasets, backends, studies."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import is_dataclass
from typing import Any, Generic, TypeVar

from eltbench.core.validation import build, unknown

T = TypeVar("T")
C = TypeVar("C", bound=type)


SESSION = "eltbench_session"  # the module of what no file holds, in processes that this one starts
TARGET = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")  # module:Class
_allowed: set[str] = set()
_registries: dict[str, Registry[Any]] = {}  # by their plural
_received: dict[str, Any] = {}  # what the process that started this one handed on


class UnknownNameError(ValueError):
    """A name that no registry entry carries; the message suggests the nearest one."""


def allow(target: str) -> None:
    """Let the name `target`, "module:Class", lead to that class from now on, in files too; imports nothing yet.

    It holds for this process and those that it starts. Raises ValueError for another form.
    """
    if not TARGET.fullmatch(target):
        raise ValueError(f"give module:Class, given {target!r}")
    _allowed.add(target)


def allowed() -> list[str]:
    """The names that this process has allowed, for the processes that it starts."""
    return sorted(_allowed)


def handed_on() -> dict[str, Any]:
    """What the processes that this one starts must know to find its classes: see `receive`.

    allowed: names of the form "module:Class". registered: by registry and name, the class and version of what was
    registered here. session: a module of the classes that no file holds, such as those of a notebook's cells. refused:
    by class, why it cannot be there.
    """
    if _received:
        return {**_received, "allowed": allowed()}
    from eltbench.core import session

    registered, ours = dict[str, dict[str, Any]](), []
    for plural, registry in _registries.items():
        for name, entry in registry.own().items():
            target = _target(entry)
            if isinstance(entry, type) and session.belongs(entry):
                ours.append(entry)
                target = f"{SESSION}:{entry.__qualname__}"
            registered.setdefault(plural, {})[name] = target, getattr(entry, "version", 1)
    text, refused = session.written(ours)
    return {"allowed": allowed(), "registered": registered, "session": text, "refused": refused}


def receive(message: Mapping[str, Any]) -> None:
    """Know what `handed_on` gave in another process of this user, whose word it is."""
    allow_named(message["allowed"])
    if message != _received:
        sys.modules.pop(SESSION, None)
        _received.clear()
        _received.update(message)


def allow_named(names: Iterable[str]) -> None:
    """Allow those of the names on a command line that have the form "module:Class": the user gave them."""
    for name in filter(TARGET.fullmatch, names):
        allow(name)


def without_allowed(arguments: Iterable[str], adding: str = "") -> list[str]:
    """A command line without its words "+module:Class", each of which allows that class.

    adding: an option among whose values they stay, since there they say more than that.
    """
    left, option = list[str](), ""
    for word in arguments:
        option = word if word.startswith("-") else option
        if not (word.startswith("+") and TARGET.fullmatch(word[1:])):
            left.append(word)
            continue
        allow(word[1:])
        if option and option == adding:
            left.append(word)
    return left


class Registry(Generic[T]):
    """Maps a name to a class, given directly, as a lazy "module:Class", or by an installed package's entry point.

    A name of the form "module:Class" needs no registration, but must be allowed (`allow`): names also come from files,
    whose authors must not choose what is imported here. It is kept by hand because entry points alone offer neither
    lazy strings nor this rule.

    base: the base of its classes as "module:Class", imported with the first of them. version: raise it when the same
    configuration would train or measure something else, so that cached runs are not mistaken for new ones.
    """

    def __init__(self, kind: str, plural: str, builtin: dict[str, str] | None = None, base: str = "") -> None:
        self.kind, self.plural, self.base = kind, plural, base
        self.group = f"eltbench.{plural}"  # of entry points
        self.builtin = tuple(builtin or ())
        self._entries: dict[str, type[T] | str] = dict(builtin or {})
        self._plugins_read = False
        _registries[plural] = self

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
        """The class registered under `name`; raises UnknownNameError with the near miss and the known names.

        Raises it also for a failed import and for a class of another kind.
        """
        self.check(name)
        entry, version = self._received().get(name) or (self._entries.get(name, name), 1)
        if isinstance(entry, str):
            try:
                entry = _imported(entry)
            except (ImportError, AttributeError, SyntaxError) as error:
                raise UnknownNameError(f"{self.kind} {name!r} cannot be loaded: {error}") from error
            self._check_kind(name, entry)
            if name in self._entries:
                self._entries[name] = entry
            if "name" not in vars(entry):  # a lazy class that did not use the decorator; its parent may have
                entry.name, entry.version = name, vars(entry).get("version", version)  # type: ignore[attr-defined]
        return entry

    def check(self, name: str) -> None:
        """Raise UnknownNameError unless `name` is registered, or allowed; loads nothing."""
        self._read_plugins(unless=name)
        if name in self._entries or name in _allowed or name in self._received():
            return
        if TARGET.fullmatch(name):
            raise UnknownNameError(
                f"{self.kind} {name!r} is not registered, and no file can have it imported: if you trust it, add "
                f"+{name} to the command line, or call eltbench.core.registry.allow({name!r}) in Python"
            )
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
        return sorted({*self._entries, *self._received()})

    def own(self) -> dict[str, type[T] | str]:
        """What was registered in this process, as it was given."""
        return {name: entry for name, entry in self._entries.items() if name not in self.builtin}

    def _received(self) -> dict[str, Any]:
        """Target and version by name, of what the process that started this one had registered."""
        found: dict[str, Any] = _received.get("registered", {}).get(self.plural, {})
        return found

    def _add(self, name: str, entry: type[T] | str) -> None:
        existing = self._entries.get(name)
        if existing is not None and _target(existing) != _target(entry):
            raise ValueError(f"{self.kind} {name!r} is already registered as {_target(existing)}; choose another name")
        self._entries[name] = entry

    def _check_kind(self, name: str, found: Any) -> None:
        if not isinstance(found, type):
            raise UnknownNameError(f"{self.kind} {name!r} is no class, but of type {type(found).__name__}")
        if self.base and not issubclass(found, _imported(self.base)):
            raise UnknownNameError(
                f"{self.kind} {name!r} is no subclass of {self.base.partition(':')[2]} ({self.base})"
            )

    def _read_plugins(self, unless: str | None = None) -> None:
        if self._plugins_read or unless in self._entries:
            return
        from importlib.metadata import entry_points  # takes as long to load as all else that naming a class needs

        self._plugins_read = True
        for point in entry_points(group=self.group):
            self._add(point.name, point.value)


def lazy(room: str, module: str, *names: str) -> Callable[[str], Any]:
    """The `__getattr__` of a room (its `__name__`) whose `names` are loaded from its `module` when first used."""

    def load(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {room!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{room}.{module}"), name)

    return load


def home(cls: type) -> str:
    """The module of a class by its real name, also where that is run as `python -m package.module`."""
    module = cls.__module__
    return str(getattr(sys.modules[module].__spec__, "name", module)) if module == "__main__" else module


def _imported(target: str) -> Any:
    module, _, attribute = target.partition(":")
    if module != SESSION:
        return getattr(importlib.import_module(module), attribute)
    from eltbench.core import session

    if why := _received.get("refused", {}).get(attribute):
        raise ImportError(why)
    return getattr(session.opened(SESSION, _received.get("session", "")), attribute)


def _target(entry: type | str) -> str:
    if isinstance(entry, str):
        return entry
    return f"{home(entry)}:{entry.__qualname__}"
