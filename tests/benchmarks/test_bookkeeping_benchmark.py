"""What is waited for before any work: the import, the list of names, a plan whose runs are all there, the run cache.

    pytest tests/benchmarks/test_bookkeeping_benchmark.py --benchmark-enable -s

prints seconds beside their targets, for 10,000 runs; without --benchmark-enable for a hundred, to see that it works.
Nothing is asserted about time.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from eltbench import studies
from eltbench.evidence import results
from eltbench.evidence.schema import part_schema
from eltbench.execution import cache
from eltbench.execution.store import RunStore
from eltbench.execution.sweep import sweep
from eltbench.studies.presets import load_preset
from eltbench.training.job import Job


@pytest.fixture
def measuring(request) -> bool:
    return bool(request.config.getoption("--benchmark-enable"))


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def planned(count: int) -> list[Job]:
    """The jobs of a study with so many runs."""
    preset = load_preset("extrapolation", "quick")
    return studies.create("extrapolation").plan(replace(preset, seeds=tuple(range(count // len(preset.arms)))))


def fill(store: RunStore, jobs: list[Job]) -> None:
    """Every run finished and measured: the files of one, under the names of all."""
    job, first = jobs[0], store.directory(jobs[0].run_id)
    first.mkdir(parents=True)
    for name in ("checkpoint.safetensors", "checkpoint.json"):
        (first / name).write_bytes(b"{}")
    store.finish(job.run, job.run_id, seconds=1.0, resumed=False)
    rows = results.stamp([{"metric": "loss", "value": 1.0}], job.run, job.run_id, job.digest, {})
    results.write_rows(store.measurement_path(job.run_id, "extrapolation", job.digest), rows, part_schema())
    files = {path.relative_to(first): path.read_bytes() for path in first.rglob("*") if path.is_file()}
    for each in jobs:
        (store.directory(each.run_id) / "measurements").mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (store.directory(each.run_id) / name).write_bytes(
                content.replace(job.run_id.encode(), each.run_id.encode())
            )
        (store.directory(each.run_id) / "run.json").write_text(json.dumps(each.run.to_dict()))


@pytest.mark.parametrize(
    ("what", "code", "target"),
    [
        ("import eltbench", "import eltbench", 0.15),
        ("eltbench --help", "import sys; from eltbench.cli.main import main; sys.exit(main(['--help']))", 0.3),
        ("eltbench list", "import sys; from eltbench.cli.main import main; sys.exit(main(['list']))", 0.4),
    ],
)
def test_seconds_of_a_process(measuring, what, code, target):
    def run(code: str) -> None:
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)

    rounds = 7 if measuring else 1
    empty, whole = ([seconds(lambda each=each: run(each)) for _ in range(rounds)] for each in ("pass", code))
    print(f"\n{what}: {min(whole):.2f} s at best of {rounds}, an empty process {min(empty):.2f} s (target {target} s)")


def test_seconds_of_a_plan_whose_runs_are_all_cached_and_of_a_list_of_them(measuring, tmp_path: Path):
    store, count = RunStore(tmp_path / "runs"), 10_000 if measuring else 100
    fill(store, planned(count))
    whole = seconds(lambda: sweep(planned(count), store))
    assert len(sweep(planned(count), store).cached) == count
    listed = seconds(lambda: cache.cached_runs(store))
    assert len(cache.cached_runs(store)) == count
    print(f"\n{count} cached runs: a sweep planned in {whole:.2f} s (target 5 s), the cache listed in {listed:.2f} s")
