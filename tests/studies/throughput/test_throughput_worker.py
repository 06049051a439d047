"""The processes that measure: what they race, what they skip, and that they end with their sender."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import signal
import subprocess
import sys
from dataclasses import asdict

import pytest

from eltbench.backends.torch.engine import TorchEngine
from eltbench.core.child import ORPHANED
from eltbench.evaluation.speed.peak import NoAccountError, Peak
from eltbench.evaluation.speed.stopwatch import Burst
from eltbench.studies.throughput import contenders
from eltbench.studies.throughput import timing_process as worker
from eltbench.studies.throughput.cells import Cell
from eltbench.studies.throughput.timing_process import Nursery, ProcessError

SETTINGS = {"device": "cpu", "threads": 1, "seed": 0, "calls": 10, "burst_seconds": 0.0}
CALL = Cell("call", 2, 2, 16, 2)


def message(cell, what="race", **more):
    return {**SETTINGS, "what": what, "cell": asdict(cell), **more}


@pytest.mark.slow
@pytest.mark.parametrize(
    "cell",
    [
        CALL,
        Cell("self", 2, 2, 16, 2, precision="bf16"),
        Cell("sampler", 2, 2, 16, 2, sampling_steps=2, guidance_scale=2.0),
        Cell("sampler", 2, 2, 16, 2, sampling_steps=2, block="dit"),
        Cell("hoisting", 2, 2, 16, 2, block="dit"),
        Cell("step", 1, 2, 16, 2, batch=2, block="dit"),
        Cell("peers", 1, 1, 16, 2),
    ],
    ids=lambda cell: f"{cell.measure} {cell.block}",
)
def test_every_contender_of_a_cell_is_raced(cell):
    found = worker.answer(message(cell))
    bursts = [Burst(*each) for each in json.loads(json.dumps(found))["bursts"]]
    names = {each.contender for each in bursts}
    assert names == set(cell.contenders) or (cell.measure == "peers" and "torch.nn.TransformerEncoderLayer" in names)
    assert all(each.calls >= 10 and each.seconds > 0 for each in bursts)


def test_a_loop_s_blocks_are_run_as_often_as_the_sampler_runs_them(monkeypatch):
    class Counting:
        ops = None

        def __init__(self):
            self.bodies = []

        def predict(self, body):
            return lambda *_: None

        def blocks(self, body):
            return lambda: self.bodies.append(body)

    made = Counting()
    cell = Cell("sampler", 2, 2, 16, 2, sampling_steps=5, guidance_scale=2.0, batch=3)
    contenders.samplers(cell, made)["blocks"]()
    assert len(made.bodies) == 5
    assert {body.batch for body in made.bodies} == {6}  # with and without the label, in one call


def test_a_cell_that_does_not_fit_is_skipped_with_bytes_needed_and_had(monkeypatch):
    monkeypatch.setattr(worker, "available_bytes", lambda device: 2**20)
    cell = Cell("call", 8, 4, 1280, 16)
    (reason,) = worker.answer(message(cell)).values()
    held = 4 * 12 * 1280**2 * (8 + 32) / 2**30  # weights of the layers alone
    needed = float(reason.split("needs about ")[1].split(" GiB")[0])
    assert held < needed < 1.2 * held
    assert reason.endswith("of memory, 0.00 GiB are free")


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_memory_that_runs_out_skips_the_cell_and_any_other_error_does_not(monkeypatch, error, short):
    def out(*_):
        raise error

    monkeypatch.setattr(contenders, "contenders", out)
    if short:
        assert worker.answer(message(CALL))["skipped"].startswith("out of memory: needs about 0.00 GiB")
    else:
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            worker.answer(message(CALL))


def test_a_backend_that_is_not_installed_skips_the_cell(monkeypatch):
    monkeypatch.setattr("eltbench.backends.EXTRAS", {"jax": ("no_such_library",)})
    found = worker.answer(message(Cell("call", 2, 2, 16, 2, mode="scan")))
    assert "needs no_such_library, not installed here" in found["skipped"]


def test_without_a_compiler_compiled_cells_are_skipped_and_eager_ones_are_not(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler -O3")
    found = worker.answer(message(Cell("call", 2, 2, 16, 2, mode="compiled")))
    assert found["skipped"].startswith("torch compiles with no-such-compiler, not on PATH here; install it")
    monkeypatch.setenv("CXX", f"{sys.executable} -O3")  # a program that is there
    assert worker.no_compiler("cpu") == ""
    monkeypatch.setattr(contenders, "contenders", lambda *_: ({}, None))
    assert "bursts" in worker.answer(message(CALL))
    monkeypatch.setattr(worker.importlib.util, "find_spec", lambda name: None)
    assert "compiles for CUDA with triton" in worker.no_compiler("cuda")


def test_ceilings_are_measured_for_the_shapes_asked():
    asked = {"fp32": sorted(CALL.shapes)}
    found = worker.answer({**SETTINGS, "what": "ceilings", "shapes": asked, "seconds": 1e-6, "largest": 2**19})
    measured = json.loads(json.dumps(found))["ceilings"]["rates"]["fp32"]
    assert sorted(tuple(row[:-1]) for row in measured) == asked["fp32"]


def test_the_peak_is_what_was_held_at_once(tmp_path):
    status, reset = tmp_path / "status", tmp_path / "clear_refs"
    status.write_text("Name: python\nVmHWM:\t 500 kB\nVmRSS:\t 300 kB\n")
    peak = Peak("cpu", status, reset)
    assert reset.read_text() == "5"
    status.write_text("VmHWM:\t 900 kB\nVmRSS:\t 350 kB\n")
    assert peak.bytes() == 600 * 1024
    with pytest.raises(NoAccountError, match="cannot be reset here"):
        Peak("cpu", status, tmp_path / "nowhere" / "clear_refs")


def test_the_system_s_own_account_sees_memory_that_came_and_went():
    found = None
    with contextlib.suppress(NoAccountError):  # a system that keeps none says so, see above
        peak = Peak("cpu")
        with mmap.mmap(-1, 2**26) as memory:  # the system's, where an array's may be what the allocator kept
            memory.write(bytes(2**26 - 1))
        found = peak.bytes()
    assert found is None or found > 32 * 2**20


@pytest.mark.parametrize("trainer", ["elt", "unique-depth"])
def test_the_peak_of_training_begins_before_the_model_and_ends_after_its_steps(monkeypatch, trainer):
    happened = []

    class Watched:
        def __init__(self, device):
            happened.append("begin")

        def bytes(self):
            happened.append("end")
            return 123

    class Engine(TorchEngine):
        def __init__(self, run, *parts):
            happened.append((run.trainer, run.architecture.unique_layers, run.architecture.width))
            super().__init__(run, *parts)

        def step(self, *arguments):
            happened.append("step")
            return super().step(*arguments)

    monkeypatch.setattr(contenders, "Peak", Watched)
    monkeypatch.setattr("eltbench.backends.get", lambda name: Engine)
    cell = Cell("memory", 1, 4, 16, 2, batch=2, block="dit")
    assert worker.answer(message(cell, "memory", contender=trainer)) == {"peak_bytes": 123}
    layers = 4 if trainer == "unique-depth" else 1
    small = (trainer, 1, 8)  # loads what the first step loads
    assert happened == [small, "step", "begin", (trainer, layers, 16), *["step"] * contenders.PEAK_STEPS, "end"]


@pytest.mark.slow
def test_what_a_nursery_loads_starts_no_threads_that_a_fork_would_lose():
    code = "import os, sys; from eltbench.studies.throughput import timing_process as worker; worker._load(); "
    code += "print(*{name.partition('.')[0] for name in sys.modules}); "
    code += "print('threads', len(os.listdir('/proc/self/task')) if worker.FORKS else 1)"
    given = {"capture_output": True, "text": True, "timeout": 120, "check": True}
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "OPENBLAS_NUM_THREADS": "1"}, **given)
    *modules, _, threads = done.stdout.split()
    assert not {"pyarrow", "pandas", "jax", "sklearn"} & set(modules)
    assert threads == "1"


@pytest.mark.slow
def test_a_nursery_answers_again_and_again_also_after_an_error():
    with Nursery(1) as nursery:
        assert len(nursery.ask(message(CALL))["bursts"]) == 10  # two contenders, five rounds
        with pytest.raises(ProcessError, match="KeyError: 'cell'"):
            nursery.ask({**SETTINGS, "what": "race"})
        assert len(nursery.ask(message(CALL))["bursts"]) == 10  # two contenders, five rounds
        with pytest.raises(ProcessError, match="was killed by SIGALRM") as ended:  # however busy it is
            nursery.ask({**message(Cell("call", 2, 2, 16, 2, rounds=10**9)), "limit": 1})
        assert ended.value.killed == signal.SIGALRM
        process = nursery.child.process
        assert process.poll() is None
    assert process.poll() is not None


@pytest.mark.slow
def test_a_measurement_ends_when_its_sender_is_gone():
    endless = message(Cell("call", 2, 2, 16, 2, rounds=10**9))
    command = [sys.executable, "-m", "eltbench.studies.throughput.timing_process"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdin.write(json.dumps(endless).encode() + b"\n")
        process.stdin.close()
        assert process.wait(timeout=120) == ORPHANED


def test_a_process_that_cannot_start_says_why():
    with Nursery(1, "eltbench.no_such_module") as nursery, pytest.raises(ProcessError, match="No module named"):
        nursery.ask({"what": "race"})
