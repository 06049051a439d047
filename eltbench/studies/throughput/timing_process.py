"""A process of its own for every measurement, one at a time: nothing of one is warm, cached or compiled for the next.

A nursery is a process that loads the libraries, computes nothing, and forks a child for each message (on Linux;
elsewhere a new process is started for each). One nursery serves one replicate of all cells, so that replicates differ
in their memory's layout too.

Messages: {"what": "ceilings", "device": …, "threads": …, "shapes": {precision: [shape, …]}, "seconds": …, "largest": …}
or {"what": "race" or "memory", "cell": …, "device": …, "threads": …, "seed": …, …}. Answers: {"ceilings": …},
{"bursts": [[contender, round, place, calls, seconds], …], "absent": [peers that are not installed]},
{"peak_bytes": …}, {"skipped": reason} or {"error": …}. A process is ended by its own alarm clock after "limit" seconds.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shlex
import shutil
import signal
import sys
import traceback
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from eltbench import backends
from eltbench.core.child import ORPHANED, Child, answers, end_with_sender, ending, in_words, told
from eltbench.core.config import Architecture
from eltbench.core.machine import memory
from eltbench.data.base import DataSpec
from eltbench.evaluation.speed import ceilings, stopwatch
from eltbench.evaluation.speed.peak import NoAccountError
from eltbench.evaluation.speed.roofline import Shape
from eltbench.studies.throughput import contenders
from eltbench.studies.throughput.cells import Cell

FORKS = sys.platform == "linux"  # elsewhere, a process with loaded libraries is not safely forked
OUT_OF_MEMORY = "OutOfMemoryError", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "RESOURCE_EXHAUSTED"
"""Of torch on CUDA and CPU, cuBLAS, XLA."""


class ProcessError(RuntimeError):
    """A process that ended without an answer; the message says how, and what it said last.

    killed: the number of the signal that ended it, 0 where it ended by itself.
    """

    def __init__(self, message: str, killed: int = 0) -> None:
        super().__init__(message)
        self.killed = killed


class Nursery(AbstractContextManager["Nursery"]):
    """A process of `module` that answers one message at a time; it ends with this one, or when the context is left."""

    def __init__(self, threads: int, module: str = "eltbench.studies.throughput.timing_process") -> None:
        self.threads, self.module = threads, module
        self.child: Child | None = None

    def __exit__(self, *why: object) -> None:
        self.end()

    def end(self) -> None:
        """End the process, whatever it is doing."""
        if self.child is not None:
            self.child.end()
            self.child = None

    def ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a message; ProcessError where there is none, with the error that the process reports."""
        if self.child is None or self.child.process.poll() is not None:
            self.end()
            self.child = Child(self.module, self.threads, {"OPENBLAS_NUM_THREADS": "1"})  # no thread to fork
        self.child.send(message)
        answer = self.child.receive()
        if answer is None:
            raise ProcessError(self.child.ending(), max(0, -self.child.process.returncode))
        if answer.pop("last", False):
            self.child.process.wait()
        if "error" in answer:
            raise ProcessError(answer["error"], answer.get("killed", 0))
        return answer


def answer(message: Mapping[str, Any]) -> dict[str, Any]:
    """What is asked; what does not fit into memory is skipped with the bytes that it needed and that there were."""
    device, threads = message["device"], message["threads"]
    if message["what"] == "ceilings":
        from eltbench.backends.torch.probes import TorchProbes

        shapes = {name: [Shape(*shape) for shape in its] for name, its in message["shapes"].items()}
        sizes = {"seconds": message["seconds"], "largest": message["largest"] or None}
        probes = TorchProbes(device, threads)
        found = ceilings.measure(probes, device, threads, shapes, **sizes, lacks_memory=out_of_memory)
        return {"ceilings": found.to_dict()}
    cell = Cell(**message["cell"])
    try:
        backends.registry.check(cell.backend)
    except ValueError as error:
        return {"skipped": str(error)}
    if cell.mode == "compiled" and (missing := no_compiler(device)):
        return {"skipped": missing}
    had, needed = available_bytes(device), cell.needed_bytes()
    if needed > had:
        return {"skipped": f"needs about {in_gib(needed)} of memory, {in_gib(had)} are free"}
    try:
        if message["what"] == "memory":
            return {"peak_bytes": contenders.peak_bytes(cell, message["contender"], device, threads)}
        raced, wait = contenders.contenders(cell, device, threads)
        settings = {"calls": message["calls"], "burst_seconds": message["burst_seconds"]}
        bursts = stopwatch.race(raced, wait, np.random.default_rng(message["seed"]), rounds=cell.rounds, **settings)
    except NoAccountError as error:
        return {"skipped": str(error)}
    except Exception as error:
        if not out_of_memory(error):
            raise
        return {"skipped": f"out of memory: needs about {in_gib(needed)}, {in_gib(had)} were free"}
    return {"bursts": bursts, "absent": contenders.absent(cell)}


def no_compiler(device: str) -> str:
    """What torch's compiler lacks here, in words; empty where nothing is missing."""
    if device.startswith("cuda"):
        return "" if importlib.util.find_spec("triton") else "torch compiles for CUDA with triton, not installed here"
    usual = "clang++" if sys.platform == "darwin" else "g++"  # torch takes no other unless CXX names it
    name = [*shlex.split(os.environ.get("CXX", "")), usual][0]
    return "" if shutil.which(name) else f"torch compiles with {name}, not on PATH here; install it, or name one in CXX"


def available_bytes(device: str) -> int:
    """Free memory where the cell runs: of the device, or of the machine and its control groups."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(device)[0]
    return memory()["available"]


def out_of_memory(error: Exception) -> bool:
    """Whether a library says that memory is short, each in its own words."""
    return isinstance(error, MemoryError) or any(word in in_words(error) for word in OUT_OF_MEMORY)


def in_gib(size: float) -> str:
    """Bytes for people."""
    return f"{size / 2**30:.2f} GiB"


def main() -> int:
    """Load what measurements need, then answer messages until the sender is gone; returns the exit code."""
    out = answers()
    if FORKS:
        _load()
    while (line := told()) is not None:
        out.write((_in_a_child(line) if FORKS else _answered(line)) + "\n")
        if not FORKS:
            return 0
    return ORPHANED


def _load() -> None:
    """Import torch, and all that its first network imports, by one that has no memory: nothing is computed."""
    import torch

    from eltbench.accounting import NetworkSpec
    from eltbench.backends.torch.network import Network

    with torch.device("meta"):
        architecture, pixel = Architecture(1, 1, width=4, heads=1, patch=1), DataSpec("continuous", (1, 1), 1)
        Network(NetworkSpec(architecture, "looped", pixel, timed=True))


def _in_a_child(line: bytes) -> str:
    """The answer of a forked process; sent when it is gone, so that it cannot read the next message."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        with os.fdopen(writer, "w", encoding="utf-8") as out:
            out.write(_answered(line))
        sys.stderr.flush()
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as pipe:
        said = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == ORPHANED:
        os._exit(ORPHANED)
    return said if code == 0 else json.dumps({"error": f"process {ending(code)}", "killed": max(0, -code)})


def _answered(line: bytes) -> str:
    """The answer of this process to its only message, as JSON; it ends with the sender, and when its limit is over."""
    end_with_sender()
    message = json.loads(line)
    signal.alarm(math.ceil(message.get("limit", 0)))
    try:
        found = answer(message)
    except Exception as error:
        traceback.print_exc()
        found = {"error": in_words(error)}
    return json.dumps({**found, "last": not FORKS})


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # taking the libraries down takes a second, for nothing
