"""Measurements, each in a process of its own: `python -m eltbench.studies.throughput.timing_process`.

A line of JSON says what:
{"what": "ceilings", "device": …, "threads": …, "shapes": {precision: [shape, …]}, "seconds": …, "largest": …}
or {"what": "race" or "memory", "cell": …, "device": …, "threads": …, "seed": …, …}. The answer is one JSON line on
stdout: {"ceilings": …}, {"bursts": [[contender, round, place, calls, seconds], …], "absent": [peers that are not
installed]}, {"peak_bytes": …}, {"skipped": reason} or {"error": …}. A process that takes longer than the message's
"limit" in seconds is ended by its own alarm clock, which no library can hold up.
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
from typing import Any

import numpy as np

from eltbench import backends
from eltbench.core.child import ORPHANED, end_with_sender, told
from eltbench.core.config import Architecture
from eltbench.data.base import DataSpec
from eltbench.evaluation.speed import stopwatch
from eltbench.evaluation.speed.peak import NoAccountError
from eltbench.evaluation.speed.roofline import Shape
from eltbench.studies.throughput import contenders
from eltbench.studies.throughput.cells import Cell
from eltbench.studies.throughput.process import ending

FORKS = sys.platform == "linux"  # elsewhere, a process with loaded libraries is not safely forked
OUT_OF_MEMORY = (  # of torch on CUDA and CPU, cuBLAS, XLA
    "OutOfMemoryError",
    "can't allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "RESOURCE_EXHAUSTED",
)


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
    if cell.mode == "compiled" and (missing := no_compiler(device)):
        return {"skipped": missing}
    had, needed = available_bytes(device), cell.needed_bytes()
    if needed > had:
        return {"skipped": f"needs about {in_gib(needed)} of memory, {in_gib(had)} are free"}
    try:
        if message["what"] == "memory":
            return {"peak_bytes": contenders.peak_bytes(cell, message["contender"], device, threads)}
        raced, wait = contenders.contenders(cell, device, threads)
        rng = np.random.default_rng(message["seed"])
        settings = {"calls": message["calls"], "burst_seconds": message["burst_seconds"]}
        bursts = stopwatch.race(raced, wait, rng, rounds=cell.rounds, **settings)
    except NoAccountError as error:
        return {"skipped": str(error)}
    except Exception as error:
        if not out_of_memory(error):
            raise
        return {"skipped": f"out of memory: needs about {in_gib(needed)}, {in_gib(had)} were free"}
    return {"bursts": [list(burst) for burst in bursts], "absent": contenders.absent(cell)}


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
    from eltbench.core.machine import memory

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
    from eltbench.evaluation.speed import ceilings

    shapes = {name: [Shape(*shape) for shape in its] for name, its in message["shapes"].items()}
    settings = {"seconds": message["seconds"], "largest": message["largest"] or None}
    probes = TorchProbes(device, threads)
    found = ceilings.measure(probes, device, threads, shapes, **settings, lacks_memory=out_of_memory)
    return {"ceilings": found.to_dict()}


def main() -> int:
    """Load what measurements need, then answer messages until the sender is gone; returns the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the sender hears Ctrl-C too, and ends this process
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # what libraries print must not fall into the answer
    if FORKS:
        _load()
    while (line := told()) is not None:
        if not FORKS:
            end_with_sender()
            _set_alarm(line)
            out.write(json.dumps({**_answered(line), "last": True}) + "\n")
            return 0
        out.write(_in_a_child(line) + "\n")
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
    """The answer of a forked process, as JSON; told on when it is gone, so that it cannot read the next message."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        end_with_sender()
        _set_alarm(line)
        with os.fdopen(writer, "w", encoding="utf-8") as out:
            out.write(json.dumps(_answered(line)))
        sys.stderr.flush()
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as pipe:
        said = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == ORPHANED:
        os._exit(ORPHANED)
    return said if code == 0 else json.dumps({"error": f"process {ending(code)}", "killed": -code if code < 0 else 0})


def _set_alarm(line: bytes) -> None:
    """End this process by SIGALRM when the message's limit is over."""
    if limit := json.loads(line).get("limit"):
        signal.alarm(math.ceil(limit))


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
