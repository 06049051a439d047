"""What a cell races: calls, samplers, training steps, blocks of others; and how its training memory is measured."""

from __future__ import annotations

import importlib.util
import itertools
from dataclasses import replace
from typing import Any

import numpy as np

from eltbench.backends import speed
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
    bodies = {name: cell.body(name) for name in ("looped", "unique")}
    if cell.measure == "hoisting":
        return {"looped": made.call(bodies["looped"]), "unhoisted": made.unhoisted(bodies["looped"])}, made.wait
    if cell.measure == "self":
        return {name: made.call(bodies["unique"]) for name in cell.contenders}, made.wait
    return {name: made.call(body) for name, body in bodies.items()}, made.wait


def samplers(cell: Cell, made: speed.Speed) -> dict[str, Call]:
    """A whole sampler of each network, and the loops of the looped one's calls alone."""
    from eltbench import tasks

    task, labels = tasks.create(cell.task), np.zeros(cell.batch, np.int32)
    settings = task.sampling(steps=cell.sampling_steps, guidance_scale=cell.guidance_scale)

    def sampler(name: str) -> Call:
        body = cell.body(name)
        predict = made.predict(body)

        def draw() -> Any:
            rng = np.random.default_rng(0)
            for state in task.sample(predict, cell.spec, labels, body.loops, rng, made.ops, settings):
                last = state
            return last

        return draw

    once = made.blocks(cell.body("looped")._replace(batch=cell.items))

    def blocks() -> Any:
        for _ in range(cell.sampling_steps):
            last = once()
        return last

    return {"looped": sampler("looped"), "unique": sampler("unique"), "blocks": blocks}


def steps(cell: Cell, device: str, threads: int) -> tuple[dict[str, Call], Wait]:
    """Training steps of the engine, on the same batches, with the exits that each trainer draws."""
    from eltbench.training.loop import build_engine, draw, parts

    found: dict[str, Call] = {}
    for trainer in cell.contenders:
        run = cell.run(trainer, device, threads)
        made = parts(run)
        engine = build_engine(run, made)
        drawn = itertools.cycle([draw(run, made, step) for step in range(STEPS)])

        def step(engine: Any = engine, drawn: Any = drawn) -> tuple[Any, Any]:
            batch, exits = next(drawn)
            return engine, engine.step(batch, exits, 0.5, 1e-4)["loss"]

        found[trainer] = step
    return found, lambda last: last[0].numpy(last[1])


def peak_bytes(cell: Cell, trainer: str, device: str, threads: int) -> int:
    """The most memory that training has held at once, above what the process held before there was a network."""
    from eltbench.training.loop import build_engine, draw, parts

    run = cell.run(trainer, device, threads)
    made = parts(run)
    batch, exits = draw(run, made, 0)
    _warm(run)
    peak = Peak(device)
    engine = build_engine(run, made)
    for _ in range(PEAK_STEPS):
        loss = engine.step(batch, exits, 0.5, 1e-4)["loss"]
    engine.numpy(loss)
    return peak.bytes()


def _warm(run: Any) -> None:
    """One step of a network of no size, so that what libraries load at their first step is not counted."""
    from eltbench.training.loop import build_engine, draw, parts

    small = replace(run, architecture=replace(run.architecture, width=8, heads=2, unique_layers=1))
    made = parts(small)
    engine = build_engine(small, made)
    batch, exits = draw(small, made, 0)
    engine.numpy(engine.step(batch, exits, 0.5, 1e-4)["loss"])


def absent(cell: Cell) -> list[str]:
    """Peers that would be raced if they were installed."""
    missing = cell.measure == "peers" and cell.block == "bert" and importlib.util.find_spec("timm") is None
    return [TIMM] if missing else []
