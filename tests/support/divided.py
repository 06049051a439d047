"""A process with several CPU devices that takes the same steps on one and on more: `divided.py FOLDER TRAINER`.

Prints one line of JSON by task. XLA divides the processor before JAX starts, hence a process of its own.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from two_backends import compilations, small_run

from eltbench.backends.jax import engine as room
from eltbench.core.config import Run
from eltbench.core.streams import stream
from eltbench.training.loop import build_engine, parts

STEPS, RATE = 4, 1e-3
RUNS = {  # by trainer: runs and on how many devices
    "elt": ((small_run("elt", "diffusion"), 2), (small_run("elt", "masked", "digits-codes", block="bert"), 4)),
    "universal-transformer": (
        (small_run("universal-transformer", "diffusion", block="bert"), 4),
        (small_run("universal-transformer", "masked", "digits-codes"), 2),
    ),
}


class Side:
    """One engine, what its steps said, and how many programs these compiled."""

    def __init__(self, run: Run) -> None:
        self.run, self.made = run, parts(run)
        engine = build_engine(run, self.made)
        assert isinstance(engine, room.JaxEngine)
        self.engine, self.said, self.compiled = engine, [], []

    def arguments(self, step: int):
        run, made = self.run, self.made
        clean = made.dataset.batch(stream(run.dataset, 0, "batch", step), run.optimisation.batch_size)
        batch = made.task.corrupt(clean, made.dataset.spec, stream(run.dataset, 0, "corruption", step))
        return batch, made.trainer.exits(run.architecture, stream(run.dataset, 0, "exits", step)), step / STEPS, RATE

    def take(self, step: int) -> None:
        arguments = self.arguments(step)
        with compilations() as compiled:
            values = self.engine.step(*arguments)
            self.said.append({name: float(value) for name, value in values.items()})
        self.compiled.append(len(compiled))

    def work(self) -> float:
        """Floating-point operations of a step's program on one device, a loop's body counted once."""
        engine, (batch, exits, *numbers) = self.engine, self.arguments(0)
        placed = room._placed(batch, engine.divided)
        lowered = room.train_step.lower(
            engine.recipe, engine.state, placed, engine.recipe.passes(exits), *map(np.float32, numbers)
        )
        return lowered.compile().cost_analysis()["flops"]


def compare(run: Run, devices: int, folder: Path) -> dict:
    sides = one, several = [Side(replace(run, backend="jax", devices=count)) for count in (1, devices)]
    for side in sides:
        for step in range(STEPS):
            side.take(step)
        side.engine.save(folder / str(side.run.devices), STEPS)
    for side, other in ((one, several), (several, one)):  # each goes on from the other's checkpoint
        side.engine.load(folder / str(other.run.devices))
        side.take(STEPS)
    batch = several.arguments(STEPS)[0]
    placed = room._placed(batch, several.engine.divided)
    asked = sides if (run.trainer, run.task) == ("elt", "masked") else ()  # for every run it would be long to compile
    predictions = [side.engine.predict(side.engine.upload(batch), (5,))[0].prediction for side in asked]
    return {
        "task": run.task,
        "devices": devices,
        "said": [side.said for side in sides],
        "compiled": [side.compiled for side in sides],
        "work": [side.work() for side in sides],
        "predictions": [np.asarray(prediction).ravel().tolist() for prediction in predictions],
        "items": [len(shard.data) for shard in placed.inputs.addressable_shards],
        "whole": [leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(several.engine.state)],
    }


if __name__ == "__main__":
    jax.config.update("jax_disable_most_optimizations", True)  # compiling dominates here
    for number, (run, devices) in enumerate(RUNS[sys.argv[2]]):
        print(json.dumps(compare(run, devices, Path(sys.argv[1]) / str(number))))
