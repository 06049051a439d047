"""A run's identity: what decides its weights, hashed."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import sys
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, get_type_hints

from eltbench import backends, data, tasks, trainers
from eltbench.core.config import Options, Run, decisive
from eltbench.core.registry import UnknownNameError, home
from eltbench.core.session import source_text
from eltbench.core.validation import declared, unknown


def run_id(run: Run) -> str:
    """Sixteen hexadecimal digits of the run's configuration, the versions of its parts and its data; never of the host.

    A part that is not eltbench's enters with its source beside its version, a dataset of files with their content
    instead of their place (`Dataset.fingerprint`). Raises UnknownNameError for a name that leads nowhere, and
    ValueError for files that cannot be read.
    """
    trainer, task, dataset = trainers.get(run.trainer), tasks.get(run.task), data.get(run.dataset)
    parts: dict[str, Any] = {"trainer": trainer, "task": task, "dataset": dataset}
    network, engine = _backend_versions(run.backend)
    content, kept = _content(run), decisive(run, run.to_dict())
    for name, part in parts.items():
        kept[f"{name}_options"] = _options(part, getattr(run, f"{name}_options"), placed=not content)
    known = {
        "run": kept,
        "versions": {**{name: part.version for name, part in parts.items()}, "network": network, "engine": engine},
        "sources": {name: text for name, part in parts.items() if (text := source(part))},
        "data": content,
    }
    canonical = json.dumps(
        {name: value for name, value in known.items() if value}, sort_keys=True, separators=(",", ":")
    )
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


@cache
def source(part: type) -> str:
    """Hash of the source of a class and of those of its bases that are neither eltbench's nor Python's.

    Empty for a class of eltbench, and where the source cannot be had (compiled, or typed into an interpreter).
    """
    others = {"eltbench", *sys.stdlib_module_names}
    if home(part).partition(".")[0] in others:
        return ""
    texts = []
    for each in part.__mro__:
        if home(each).partition(".")[0] not in others:
            with contextlib.suppress(OSError, TypeError):
                texts.append(source_text(each))
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16] if texts else ""


def _backend_versions(name: str) -> tuple[int, int]:
    """The versions of a backend's network and engine."""
    try:
        room = importlib.import_module(f"eltbench.backends.{name}" if name.isidentifier() else "")
        return room.NETWORK_VERSION, room.ENGINE_VERSION
    except (ImportError, AttributeError, ValueError):
        raise UnknownNameError(unknown("backend", name, backends.names())) from None


def _content(run: Run) -> str:
    """The fingerprint of the run's data; a dataset that has none is not made."""
    if data.get(run.dataset).fingerprint is data.Dataset.fingerprint:
        return ""
    dataset = data.create(run.dataset, **dict(run.dataset_options))
    try:
        return dataset.fingerprint()
    except OSError as error:
        raise ValueError(f"the files of dataset {run.dataset!r} cannot be read: {error}") from error


def _options(part: type, given: Options, placed: bool) -> dict[str, Any]:
    """The options as the part's class takes them, without those at their default; `placed`: with those of mere places.

    What the class does not know stays: it is refused where the part is made.
    """
    known = {each.name: each for each in fields(part)} if is_dataclass(part) else {}
    hints = get_type_hints(part) if known and given else {}
    kept = {}
    for name, value in given:
        if (option := known.get(name)) is not None:
            value = declared(hints[name], value)
            usual = option.default if option.default_factory is MISSING else option.default_factory()
            if option.metadata.get("location") and not placed:
                continue
            if type(value) is type(usual) and value == declared(hints[name], usual):
                continue
        kept[name] = value
    return kept
