"""What training costs on this machine now: bursts of real steps of the very models, timed in turn.

`python -m eltbench.execution.step_cost` times what its message names (see `core.child`): {"sent": seconds since the
epoch, "runs": [run, …]} is answered by {"start": …, "warm": […], "step": […]}. Nothing is written.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from eltbench import backends
from eltbench.backends.base import Engine
from eltbench.core import child
from eltbench.core.config import Run, run_from_dict
from eltbench.training.flops import item_flops
from eltbench.training.loop import Parts, build_engine, draw, learning_rate, parts

STEPS = 3  # of a burst
BURSTS = 7  # of every model
FEWEST_BURSTS = 3
ENOUGH = 20.0  # seconds of bursts after which a model has no more than the fewest
COUNTED = 256  # steps of which FLOPs are counted where a training has more
HOW = (
    f"the lower quartile of up to {BURSTS} bursts of {STEPS} training steps each, models in turn, in as many processes "
    "side by side as would train"
)


@dataclass(frozen=True)
class Cost:
    """What one model's training costs: `start` seconds until its first step begins, `step` seconds a step."""

    start: float
    step: float


def calibrate(runs: Sequence[Run], workers: int) -> dict[Run, Cost]:
    """The cost of every kind of run (its seed put to 0), timed by `workers` processes side by side; see `HOW`.

    The lower quartile excludes short disturbances, but not a steady load, which slows a training too. For a run on
    several devices, one device's share of a batch is timed. Raises ValueError with the error of a process that failed.
    """
    kinds = list(dict.fromkeys(replace(run, seed=0) for run in runs))
    groups: dict[tuple[str, int], list[Run]] = {}
    for run in kinds:  # a process has one library and one number of threads
        groups.setdefault((run.backend, run.threads), []).append(run)
    costs: dict[Run, Cost] = {}
    for (_, threads), its in groups.items():
        answers = _answers(its, threads, workers)
        for place, run in enumerate(its):
            start = np.mean([answer["start"] + answer["warm"][place] for answer in answers])
            costs[run] = Cost(float(start), float(np.mean([answer["step"][place] for answer in answers])))
    return costs


def step_flops(run: Run, made: Parts, steps: Sequence[int] | None = None) -> float:
    """FLOPs of a training step, forward and backward, at the exits that it reads; the mean over these steps, else all.

    All are counted at 256 of them, evenly spread.
    """
    steps = spread(run.optimisation.steps, COUNTED) if steps is None else steps
    return float(np.mean(item_flops(run, made, steps))) * run.optimisation.batch_size


def typical(bursts: Sequence[float]) -> float:
    """The lower quartile of the times of bursts, which short disturbances do not move."""
    return float(np.quantile(bursts, 0.25))


def spread(steps: int, most: int) -> list[int]:
    """At most so many of the steps of a training, evenly spread."""
    return [int(step) for step in np.unique(np.linspace(0, steps - 1, min(steps, most)).round())]


def _answers(runs: Sequence[Run], threads: int, workers: int) -> list[dict[str, Any]]:
    """The answers of `workers` processes side by side."""
    children = []
    try:
        for _ in range(workers):
            children.append(child.start("eltbench.execution.step_cost", threads))
            child.send(children[-1], {"sent": time.time(), "runs": [run.to_dict() for run in runs]})
        return [_answer(process) for process in children]
    finally:
        for process in children:
            process.kill()
            process.communicate()


def _answer(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    said = json.loads(line) if line else {"error": f"its process ended with exit code {process.wait()}"}
    if "error" in said:
        raise ValueError(f"a training could not be timed: {said['error']}")
    return said


def _timed(runs: Sequence[Run]) -> dict[str, list[float]]:
    """Seconds in which each run is ready to train, and seconds of its mean step, in this process."""
    models, warm = [], []
    for run in runs:
        began = time.perf_counter()
        share = replace(run.optimisation, batch_size=run.optimisation.batch_size // run.devices)
        run = replace(run, devices=1, optimisation=share)
        made = parts(run)
        model = (run, made, build_engine(run, made), spread(run.optimisation.steps, STEPS))
        _burst(*model)  # compiles
        models.append(model)
        warm.append(time.perf_counter() - began)
    bursts: list[list[float]] = [[] for _ in models]
    began = time.perf_counter()
    for turn in range(BURSTS):
        if turn >= FEWEST_BURSTS and time.perf_counter() - began > ENOUGH:
            break
        for times, model in zip(bursts, models, strict=True):
            times.append(_burst(*model))
    seconds = []
    for times, (run, made, _, steps) in zip(bursts, models, strict=True):
        usual = step_flops(run, made) / step_flops(run, made, steps)  # a burst may have read other exits than most
        seconds.append(typical(times) / len(steps) * usual)
    return {"warm": warm, "step": seconds}


def _burst(run: Run, made: Parts, engine: Engine, steps: Sequence[int]) -> float:
    """Seconds of these steps of the training, batches drawn and all, until the last loss is known."""
    began = time.perf_counter()
    for step in steps:
        batch, exits = draw(run, made, step)
        progress = step / max(1, run.optimisation.steps - 1)
        terms = engine.step(batch, exits, progress, learning_rate(run.optimisation, step))
    engine.numpy(terms["loss"])
    return time.perf_counter() - began


def _answer_sender(told: dict[str, Any], emit: child.Emit) -> None:
    runs = [run_from_dict(values) for values in told["runs"]]
    backends.get(runs[0].backend)
    start = time.time() - told["sent"]
    emit({"start": start, **_timed(runs)})


if __name__ == "__main__":
    child.serve(_answer_sender)
