"""Classes of a session, such as cells of a notebook: their source, and one module of it for processes started by it."""

from __future__ import annotations

import ast
import inspect
import linecache
import sys
from collections.abc import Iterable, Iterator
from symtable import SymbolTable, symtable
from types import FunctionType, ModuleType
from typing import Any


def source_text(cls: type) -> str:
    """The source of a class, of a notebook's cell too; OSError where it cannot be had (typed into an interpreter)."""
    try:
        return inspect.getsource(cls)
    except (OSError, TypeError):  # inspect looks for a class in its module's file, which a notebook lacks
        for function in _methods(cls):
            lines = linecache.getlines(function.__code__.co_filename)
            for node in reversed(ast.parse("".join(lines)).body):
                if isinstance(node, ast.ClassDef) and node.name == cls.__qualname__:
                    first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
                    return "".join(inspect.getblock(lines[first - 1 :]))
        raise OSError(
            f"the source of {cls.__qualname__} cannot be read: define it in a cell, with a method, or in a module file"
        ) from None


def _methods(cls: type) -> Iterator[FunctionType]:
    """The functions that the class defines in its own text."""
    for name, member in vars(cls).items():
        function = inspect.unwrap(getattr(member, "__func__", getattr(member, "fget", member)))
        if isinstance(function, FunctionType) and function.__qualname__ == f"{cls.__qualname__}.{name}":
            yield function


def belongs(cls: type) -> bool:
    """Whether no other process could import the class: it is of `__main__`, or of no module that holds it."""
    home = sys.modules.get(cls.__module__)
    if cls.__module__ == "__main__":
        return getattr(home, "__spec__", None) is None  # not python -m package.module
    return getattr(home, cls.__qualname__.partition(".")[0], None) is None


def written(classes: Iterable[type]) -> tuple[str, dict[str, str]]:
    """A module that defines these classes and all that they name of their session, and by name why one is left out."""
    parts, refused = dict[str, str](), dict[str, str]()
    for cls in classes:
        kept = dict(parts)
        try:
            source_text(cls)  # without one it says so
            home = getattr(sys.modules.get(cls.__module__), "__dict__", {})
            _add(cls.__qualname__, cls, next((each.__globals__ for each in _methods(cls)), home), kept)
            parts = kept
        except (OSError, ValueError) as error:
            refused[cls.__qualname__] = str(error)
    return "\n\n".join(["from __future__ import annotations", *parts.values()]) + "\n" if parts else "", refused


def opened(name: str, text: str) -> ModuleType:
    """The module of that name and text, executed once; its source can be read."""
    if name not in sys.modules:
        module, place = ModuleType(name), f"<{name}>"
        module.__file__ = place
        linecache.cache[place] = (len(text), None, text.splitlines(keepends=True), place)
        sys.modules[name] = module  # where a dataclass looks itself up
        try:
            exec(compile(text, place, "exec"), vars(module))
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def _add(name: str, value: Any, space: dict[str, Any], parts: dict[str, str]) -> None:
    """Put what defines one name behind all that it names itself."""
    if name in parts:
        return
    if isinstance(value, ModuleType):
        parts[name] = f"import {value.__name__} as {name}"
    elif _plain(value):
        parts[name] = f"{name} = {value!r}"
    elif getattr(value, "__module__", "") == space.get("__name__") and getattr(value, "__qualname__", "") == name:
        text = source_text(value) if isinstance(value, type) else inspect.getsource(value)
        parts[name] = ""  # it may name itself, or what names it
        for used in _names(symtable(text, name, "exec")):
            if used in space:
                _add(used, space[used], space, parts)
        del parts[name]
        parts[name] = text
    elif origin := _origin(name, value):
        parts[name] = origin
    else:
        raise ValueError(
            f"it uses {name}, of type {type(value).__name__}, which no other process has: make it a function, an "
            "import or a plain value, or put the class into a module file"
        )


def _names(table: SymbolTable) -> Iterator[str]:
    """What a text names that it does not define itself: no arguments and no variables of functions."""
    top = table.get_type() == "module"
    yield from (each.get_name() for each in table.get_symbols() if each.is_global() or (top and each.is_referenced()))
    for inner in table.get_children():
        yield from _names(inner)


def _origin(name: str, value: Any) -> str:
    """The import that gives this very object; empty where there is none."""
    known = (name, *(getattr(value, each, "") for each in ("__qualname__", "__name__", "_name")))
    for module in dict.fromkeys([str(getattr(value, "__module__", "")), *sys.modules]):
        there = {} if module == "__main__" else getattr(sys.modules.get(module), "__dict__", {})
        for its in known:
            if isinstance(its, str) and its.isidentifier() and there.get(its) is value:
                return f"from {module} import {its} as {name}"
    return ""


def _plain(value: Any) -> bool:
    try:
        return type(written := ast.literal_eval(repr(value))) is type(value) and bool(written == value)
    except (ValueError, SyntaxError, TypeError, RecursionError):
        return False
