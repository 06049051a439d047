"""What a cell races: calls, samplers, training steps, blocks of others; and how its training memory is measured."""

from __future__ import annotations

import collections
import importlib.util
import itertools
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from eltbench.backends import speed
from eltbench.core.config import Run
from eltbench.evaluation.speed.peak import Peak
from eltbench.evaluation.speed.stopwatch import Call, Wait
from eltbench.studies.throughput.cells import Cell

STEPS = 16  # different batches and exits of a training step that is timed over and over
PEAK_STEPS = 3  # of training, after which the peak of its memory is read
TIMM = "timm.models.vision_transformer.Block"


def contenders(cell: Cell, device: str, threads: int) -> tuple[dict[str, Call], Wait]:
    """What the cell races, and how its device is waited for."""
    if cell.measure == "step":
        return steps(cell, device, threads)
    made = speed.registry.get(cell.backend)(device, threads)
    if cell.measure == "peers":
        from eltbench.backends.torch import peers

        shape = cell.architecture("looped")
        return peers.contenders(shape, cell.tokens, cell.batch, device, cell.precision), made.wait
    if cell.measure == "sampler":
        return samplers(cell, made), made.wait
    looped, unique = cell.body("looped"), cell.body("unique")
    if cell.measure == "hoisting":
        return {"looped": made.call(looped), "unhoisted": made.unhoisted(looped)}, made.wait
    return {name: made.call(unique if name.startswith("unique") else looped) for name in cell.contenders}, made.wait


def samplers(cell: Cell, made: speed.Speed) -> dict[str, Call]:
    """A whole sampler of each network, and the loops of the looped one's calls alone."""
    from eltbench import tasks

    task, labels = tasks.create(cell.task), np.zeros(cell.batch, np.int32)
    settings = task.sampling(steps=cell.sampling_steps, guidance_scale=cell.guidance_scale)

    def last(results: Iterable[Any]) -> Any:
        return collections.deque(results, maxlen=1).pop()

    def sampler(name: str) -> Call:
        body = cell.body(name)
        how = (made.predict(body), cell.spec, labels, body.loops)
        return lambda: last(task.sample(*how, np.random.default_rng(0), made.ops, settings))

    once = made.blocks(cell.body("looped")._replace(batch=cell.items))
    found = {name: sampler(name) for name in ("looped", "unique")}
    return {**found, "blocks": lambda: last(once() for _ in range(cell.sampling_steps))}


def steps(cell: Cell, device: str, threads: int) -> tuple[dict[str, Call], Wait]:
    """Training steps of the engine, on the same batches, with the exits that each trainer draws."""
    from eltbench.training.loop import build_engine, draw, parts

    def step_of(trainer: str) -> Call:
        run = cell.run(trainer, device, threads)
        made = parts(run)
        engine = build_engine(run, made)
        drawn = itertools.cycle([draw(run, made, step) for step in range(STEPS)])
        return lambda: (engine, engine.step(*next(drawn), 0.5, 1e-4)["loss"])

    return {trainer: step_of(trainer) for trainer in cell.contenders}, lambda last: last[0].numpy(last[1])


def peak_bytes(cell: Cell, trainer: str, device: str, threads: int) -> int:
    """The most memory that training has held at once, above what the process held before there was a network."""
    from eltbench.training.loop import build_engine, draw, parts

    def training(run: Run, steps: int) -> Call:
        made = parts(run)
        batch, exits = draw(run, made, 0)

        def train() -> None:
            engine = build_engine(run, made)
            for _ in range(steps):
                loss = engine.step(batch, exits, 0.5, 1e-4)["loss"]
            engine.numpy(loss)

        return train

    run = cell.run(trainer, device, threads)
    small = replace(run, architecture=replace(run.architecture, width=8, heads=2, unique_layers=1))
    train = training(run, PEAK_STEPS)
    training(small, 1)()  # so that what libraries load at their first step is not counted
    peak = Peak(device)
    train()
    return peak.bytes()


def absent(cell: Cell) -> list[str]:
    """Peers that would be raced if they were installed."""
    missing = cell.measure == "peers" and cell.block == "bert" and importlib.util.find_spec("timm") is None
    return [TIMM] if missing else []
