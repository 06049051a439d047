"""What all tests share."""

import atexit
import os
import shutil
import signal
import subprocess
import tempfile

import pytest
from hypothesis import settings

# compiling would dominate what is run a few times only: XLA leaves optimisations and its slower emitters out, and
# programs are kept for every process that the tests start (also of xdist, whose workers inherit this)
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = programs = tempfile.mkdtemp(prefix="eltbench-programs-")
    atexit.register(shutil.rmtree, programs, ignore_errors=True)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
QUICKLY = (
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_use_fusion_emitters=false",
)
os.environ.setdefault("XLA_FLAGS", " ".join(QUICKLY))

# xdist has a process for every processor: threads of one would only wait for those of another
os.environ.setdefault("OMP_NUM_THREADS", "1")

# `make test &` from a script ignores Ctrl-C in every child, which tests of Ctrl-C need to be heeded
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

THOROUGH = ("benchmarks", "fuzz")  # folders whose slow tests `make test` leaves to `make thorough`

# no test asserts wall-clock, hypothesis' own included; new examples are sought by people, not by CI
settings.register_profile("eltbench", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("eltbench")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that hold slow tests, so that no processor waits for a last file."""
    for item in items:
        if item.path.parent.name in THOROUGH and item.get_closest_marker("slow"):
            item.add_marker("thorough")
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process may be started."""

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)
