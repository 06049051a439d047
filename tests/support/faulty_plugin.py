"""A plug-in of the tests: a trainer that logs its steps, waits and goes wrong on demand, and a study of little."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pandas as pd
import pyarrow as pa

from eltbench import studies, trainers
from eltbench.core.arrays import namespace
from eltbench.core.config import Architecture, Optimisation, Run
from eltbench.trainers.no_ilsd import NoILSD
from eltbench.training.job import Job

STEPS = 4
RUN = Run(  # of a world that takes no second to load, in each of many processes
    "faulty",
    "masked",
    "relay",
    architecture=Architecture(unique_layers=1, max_loops=2, width=8, heads=2, block="bert"),
    optimisation=Optimisation(steps=STEPS, batch_size=4, log_every=1, checkpoint_every=2, label_dropout=0.0),
    dataset_options=(("length", 4), ("strips", 2)),
)


@dataclass(frozen=True)
class Faulty(NoILSD):
    """No-ILSD that logs a line per step, stands still from line `held` on while `gate` exists, turns NaN, or kills."""

    log: str = os.devnull
    gate: str = ""
    held: int = 3
    nan_from: float = 2.0  # progress at which the loss turns NaN
    nan_sum: int = -1  # of the tokens of a batch's first item, where the loss turns NaN
    kills: str = ""  # from line `held` on, the process that started this one is killed, once: then this file is there

    def exits(self, architecture, rng):
        with open(self.log, "a") as log:
            log.write(f"{os.getpid()}\n")
        while self.gate and Path(self.gate).exists() and len(logged(Path(self.log))) >= self.held:
            time.sleep(0.05)
        if self.kills and not Path(self.kills).exists() and len(logged(Path(self.log))) >= self.held:
            Path(self.kills).touch()
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(600)  # until this process notices
        return super().exits(architecture, rng)

    def objective(self, outputs, batch, progress, task, ops):
        xp = namespace(batch.target)
        spoilt = (xp.sum(batch.target[0]) == self.nan_sum) | xp.asarray(progress >= self.nan_from)
        factor = xp.where(spoilt, float("nan"), 1.0)
        return {name: factor * term for name, term in super().objective(outputs, batch, progress, task, ops).items()}


class Weighing(studies.Study):
    """Counts the model's values and the threads that its process may use, `times` times."""

    columns: ClassVar = {"role": pa.string(), "turn": pa.int64()}
    claims = ()

    def settings(self, preset, world, arm):
        return {"times": 1}

    def measure(self, model, run, settings):
        if settings.get("broken"):
            raise ValueError("the scales are broken")
        values = {"weight": model.engine.parameter_count(), "threads": int(os.environ["OMP_NUM_THREADS"])}
        rows = [
            {"loops": 1, "metric": metric, "value": float(value), "turn": turn}
            for turn in range(settings["times"])
            for metric, value in values.items()
        ]
        return studies.Measured(rows, {"turns": pd.DataFrame({"turn": range(settings["times"])})})

    def summarise(self, rows):
        return rows

    def figure(self, rows):
        raise NotImplementedError("a study of the tests draws nothing")

    def evidence(self, rows):
        return {}


def job(seed: int = 0, settings: dict | None = None, backend: str = "torch", devices: int = 1, **options) -> Job:
    """A tiny run of the faulty trainer, to be weighed."""
    run = replace(RUN, seed=seed, backend=backend, devices=devices, trainer_options=options)
    return Job(run, "weighing", settings or {"times": 1})


def plug_in(monkeypatch, folder: Path) -> None:
    """Make the plug-in known to this process, for one test, and to the processes that it starts."""
    monkeypatch.setenv("PYTHONPATH", install(folder)["PYTHONPATH"])
    for registry, name, target in ((trainers.registry, "faulty", Faulty), (studies.registry, "weighing", Weighing)):
        target.name, target.version = name, 1
        monkeypatch.setitem(registry._entries, name, target)


def install(folder: Path) -> dict[str, str]:
    """Lay this plug-in's entry points into `folder` and give the environment in which Python finds it."""
    about = folder / "faulty_plugin-1.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty-plugin\nVersion: 1\n")
    (about / "entry_points.txt").write_text(
        f"[{trainers.registry.group}]\nfaulty = faulty_plugin:Faulty\n\n"
        f"[{studies.registry.group}]\nweighing = faulty_plugin:Weighing\n"
    )
    paths = [str(folder), str(Path(__file__).parent), str(Path(trainers.__file__).parents[2])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def logged(log: Path) -> list[str]:
    """One process id per training step that was taken."""
    return log.read_text().split() if log.exists() else []
