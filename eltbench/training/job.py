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

    `settings` decide what is measured and are hashed with the study's `version`; `keys` are the values of the study's
    key columns that only the plan knows (the role of a control) and touch neither training nor measurement.
    `companions` are other runs whose models the measurement asks: they are trained before anything is measured.
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
        run, shape = self.run, self.run.architecture
        trainer, task, dataset = (
            name + (f" ({' '.join(f'{key}={value}' for key, value in options)})" if options else "")
            for name, options in (
                (run.trainer, run.trainer_options),
                (run.task, run.task_options),
                (run.dataset, run.dataset_options),
            )
        )
        size = f"{shape.unique_layers}N×{shape.max_loops}L"
        said = ("unique_layers", "max_loops")
        others = {field.name: field.default for field in fields(shape) if field.name not in said}
        unusual = [f"{name}={value}" for name, usual in others.items() if (value := getattr(shape, name)) != usual]
        return " ".join([trainer, task, dataset, size, *unusual, *([] if run.backend == "torch" else [run.backend])])


def measurement_hash(study: str, version: int, settings: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits of what is measured: the study, its version and every setting."""
    canonical = json.dumps([study, version, dict(settings)], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]
