"""Measurements, each in a process of its own: `python -m eltbench.throughput.worker`, told what by JSON lines.

A line: {"what": "ceilings", "device": …, "threads": …, "shapes": {precision: [shape, …]}, "seconds": …, "largest": …}
or {"what": "race" or "memory", "cell": …, "device": …, "threads": …, "seed": …, …}. The answer is one JSON line on
stdout: {"ceilings": …}, {"bursts": [[contender, round, place, calls, seconds], …], "absent": [peers that are not
installed]}, {"peak_bytes": …}, {"skipped": reason} or {"error": …}.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from eltbench import backends
from eltbench.backends import speed
from eltbench.evaluation import stopwatch
from eltbench.evaluation.roofline import Shape
from eltbench.evaluation.stopwatch import Call, Wait
from eltbench.sender import ORPHANED, end_with_sender, told
from eltbench.throughput.cells import Cell
from eltbench.throughput.peak import NoAccountError, Peak
from eltbench.throughput.process import ending

FORKS = sys.platform == "linux"  # elsewhere, a process with loaded libraries is not safely forked
STEPS = 16  # different batches and exits of a training step that is timed over and over
OUT_OF_MEMORY = ("OutOfMemoryError", "can't allocate memory", "RESOURCE_EXHAUSTED")  # torch on CUDA and CPU, XLA
PEAK_STEPS = 3  # of training, after which the peak of its memory is read


def answer(message: Mapping[str, Any]) -> dict[str, Any]:
    """What is asked; what does not fit into memory is skipped with the bytes that it needed and that there were."""
    device, threads = message["device"], message["threads"]
    if message["what"] == "ceilings":
        return _ceilings(message, device, threads)
    cell = Cell(**message["cell"])
    try:
        backends.registry.check(cell.backend)
    except ValueError as error:
        return {"skipped": str(error)}
    had, needed = available_bytes(device), cell.needed_bytes()
    if needed > had:
        return {"skipped": f"needs about {in_gib(needed)} of memory, {in_gib(had)} are free"}
    try:
        if message["what"] == "memory":
            return {"peak_bytes": _peak_bytes(cell, message["contender"], device, threads)}
        contenders, wait = _contenders(cell, device, threads)
        rng = np.random.default_rng(message["seed"])
        settings = {"calls": message["calls"], "burst_seconds": message["burst_seconds"]}
        bursts = stopwatch.race(contenders, wait, rng, rounds=cell.rounds, **settings)
    except NoAccountError as error:
        return {"skipped": str(error)}
    except Exception as error:
        if not out_of_memory(error):
            raise
        return {"skipped": f"out of memory: needs about {in_gib(needed)}, {in_gib(had)} were free"}
    absent = ["timm.models.vision_transformer.Block"] if cell.measure == "peers" and _without_timm(cell) else []
    return {"bursts": [list(burst) for burst in bursts], "absent": absent}


def available_bytes(device: str) -> int:
    """Free memory where the cell runs."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(device)[0]
    from eltbench.evaluation.ceilings import memory

    return memory()["available"]


def out_of_memory(error: Exception) -> bool:
    """Whether a library says that memory is short, each in its own words."""
    said = f"{type(error).__name__}: {error}"
    return isinstance(error, MemoryError) or any(word in said for word in OUT_OF_MEMORY)


def in_gib(size: float) -> str:
    """Bytes for people."""
    return f"{size / 2**30:.2f} GiB"


def _ceilings(message: Mapping[str, Any], device: str, threads: int) -> dict[str, Any]:
    from eltbench.backends.torch.probes import TorchProbes
    from eltbench.evaluation import ceilings

    shapes = {name: [Shape(*shape) for shape in its] for name, its in message["shapes"].items()}
    settings = {"seconds": message["seconds"], "largest": message["largest"] or None}
    found = ceilings.measure(TorchProbes(device, threads), device, threads, shapes, **settings)
    return {"ceilings": found.to_dict()}


def _contenders(cell: Cell, device: str, threads: int) -> tuple[dict[str, Call], Wait]:
    """What the cell races, and how its device is waited for."""
    if cell.measure == "step":
        return _steps(cell, device, threads)
    made = speed.registry.get(cell.backend)(device, threads)
    if cell.measure == "peers":
        from eltbench.backends.torch.peers import contenders

        shape = cell.architecture("looped")
        return contenders(shape, cell.tokens, cell.batch, device, cell.precision), made.wait
    if cell.measure == "sampler":
        return _samplers(cell, made), made.wait
    bodies = {name: cell.body(name) for name in ("looped", "unique")}
    if cell.measure == "hoisting":
        return {"looped": made.call(bodies["looped"]), "unhoisted": made.unhoisted(bodies["looped"])}, made.wait
    if cell.measure == "self":
        return {name: made.call(bodies["unique"]) for name in cell.contenders}, made.wait
    return {name: made.call(body) for name, body in bodies.items()}, made.wait


def _samplers(cell: Cell, made: speed.Speed) -> dict[str, Call]:
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

    items = cell.batch * (1 if cell.guidance_scale == 1 else 2)
    once = made.blocks(cell.body("looped")._replace(batch=items))

    def blocks() -> Any:
        for _ in range(cell.sampling_steps):
            last = once()
        return last

    return {"looped": sampler("looped"), "unique": sampler("unique"), "blocks": blocks}


def _steps(cell: Cell, device: str, threads: int) -> tuple[dict[str, Call], Wait]:
    """Training steps of the engine, on the same batches, with the exits that each trainer draws."""
    from eltbench.training import build_engine, draw, parts

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


def _peak_bytes(cell: Cell, trainer: str, device: str, threads: int) -> int:
    """The most memory that training has held at once, above what the process held before there was a network."""
    from eltbench.training import build_engine, draw, parts

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
    from eltbench.training import build_engine, draw, parts

    small = replace(run, architecture=replace(run.architecture, width=8, heads=2, unique_layers=1))
    made = parts(small)
    engine = build_engine(small, made)
    batch, exits = draw(small, made, 0)
    engine.numpy(engine.step(batch, exits, 0.5, 1e-4)["loss"])


def _without_timm(cell: Cell) -> bool:
    return cell.block == "bert" and importlib.util.find_spec("timm") is None


def main() -> int:
    """Load what measurements need, then answer messages until the sender is gone; returns the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the sender hears Ctrl-C too, and ends this process
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # what libraries print must not fall into the answer
    if FORKS:
        importlib.import_module("torch")
    while (line := told()) is not None:
        if not FORKS:
            end_with_sender()
            out.write(json.dumps({**_answered(line), "last": True}) + "\n")
            return 0
        out.write(_in_a_child(line) + "\n")
    return ORPHANED


def _in_a_child(line: bytes) -> str:
    """The answer of a forked process, as JSON; told on when it is gone, so that it cannot read the next message."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        end_with_sender()
        with os.fdopen(writer, "w", encoding="utf-8") as out:
            out.write(json.dumps(_answered(line)))
        sys.stderr.flush()
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as answer:
        said = answer.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == ORPHANED:
        os._exit(ORPHANED)
    return said if code == 0 else json.dumps({"error": f"process {ending(code)}"})


def _answered(line: bytes) -> dict[str, Any]:
    try:
        return answer(json.loads(line))
    except Exception as error:
        traceback.print_exc()
        return {"error": " ".join(f"{type(error).__name__}: {error}".split())}


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # taking the libraries down takes a second, for nothing
