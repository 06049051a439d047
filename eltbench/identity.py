"""A run's identity: what decides its weights, hashed."""

from __future__ import annotations

import hashlib
import importlib
import json
from dataclasses import fields, is_dataclass
from typing import Any

from eltbench import data, tasks, trainers
from eltbench.config import Run


def run_id(run: Run) -> str:
    """Sixteen hexadecimal digits of the run's configuration and the versions of its parts; never of the host."""
    backend = importlib.import_module(f"eltbench.backends.{run.backend}")
    versions = {
        "trainer": trainers.get(run.trainer).version,
        "task": tasks.get(run.task).version,
        "dataset": data.get(run.dataset).version,
        "network": backend.NETWORK_VERSION,
        "engine": backend.ENGINE_VERSION,
    }
    canonical = json.dumps(
        {"run": _decisive(run, run.to_dict()), "versions": versions}, sort_keys=True, separators=(",", ":")
    )
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _decisive(config: Any, plain: dict[str, Any]) -> dict[str, Any]:
    """The plain values of a configuration without those added later that stand at their default."""
    kept = dict(plain)
    for field in fields(config):
        value = getattr(config, field.name)
        if field.metadata.get("added") and value == field.default:
            del kept[field.name]
        elif is_dataclass(value):
            kept[field.name] = _decisive(value, kept[field.name])
    return kept
