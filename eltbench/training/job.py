"""What is to be made: a run, and one measurement of its model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

from eltbench.core.config import Run
from eltbench.training.identity import run_id


@dataclass(frozen=True)
class Job:
    """A run to be trained and, if a study is named, one measurement of it.

    settings: what is measured, hashed with the study's `version`. keys: values of the study's key columns that only the
    plan knows (the role of a control). companions: other runs whose models the measurement needs.
    """

    run: Run
    study: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    keys: Mapping[str, Any] = field(default_factory=dict)
    version: int = 1
    companions: tuple[Run, ...] = ()

    @cached_property
    def run_id(self) -> str:
        """Identity of the run."""
        return run_id(self.run)

    @cached_property
    def digest(self) -> str:
        """Hash of the measurement; raises ValueError where the job names no study."""
        if self.study is None:
            raise ValueError("this job trains a run and measures nothing")
        return measurement_hash(self.study, self.version, self.settings)

    @property
    def name(self) -> str:
        """The run in words, for people: no two runs of a study have one name."""
        return f"{self.model} seed {self.run.seed}"

    @property
    def model(self) -> str:
        """What all seeds of this run are: its size, options, and whatever else of its architecture is not usual."""
        run, shape, words = self.run, self.run.architecture, []
        for part in ("trainer", "task", "dataset"):
            options = " ".join(f"{key}={value}" for key, value in getattr(run, f"{part}_options"))
            words.append(getattr(run, part) + (f" ({options})" if options else ""))
        words.append(f"{shape.unique_layers}N×{shape.max_loops}L")
        for each in fields(shape):
            value = getattr(shape, each.name)
            if each.name not in ("unique_layers", "max_loops") and value != each.default:
                words.append(f"{each.name}={value}")
        return " ".join(words if run.backend == "torch" else [*words, run.backend])


def measurement_hash(study: str, version: int, settings: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits of what is measured: the study, its version and every setting."""
    canonical = json.dumps([study, version, dict(settings)], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]
