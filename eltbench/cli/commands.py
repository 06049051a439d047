"""The commands of `eltbench` whose options tyro reads: one class each, and `act` does it and gives the exit code."""

from __future__ import annotations

import importlib.util
import math
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro

from eltbench import studies
from eltbench.cli.command_line import options
from eltbench.core import tables
from eltbench.core.atomic import check_writable
from eltbench.core.config import Architecture, Optimisation, Run
from eltbench.core.provenance import provenance
from eltbench.core.registry import allow_named
from eltbench.core.terminal import tell_programs
from eltbench.execution.store import RunStore
from eltbench.training.identity import run_id
from eltbench.training.model import load_model, runs_root

MOST_IN_A_LINE, MOST_PICTURES = 500, 5_000  # beyond, a picture is wider than matplotlib draws, or takes it hours


@dataclass(frozen=True)
class Train:
    """Train one model into the run cache and print its run id; a run that is there already is not trained again."""

    trainer: str = "elt"
    """how the network is supervised; eltbench list shows the names"""
    task: str = "diffusion"
    """what a network call predicts"""
    dataset: str = "digits"
    """what is learned"""
    seed: int = 0
    """of weights, batches and corruptions"""
    architecture: Architecture = field(default_factory=Architecture)
    optimisation: Optimisation = field(default_factory=Optimisation)
    option: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """an option of the trainer, task or dataset, such as trainer.decay=cosine or dataset.gates=24; give it again for
    each further one"""
    backend: str = "torch"
    """torch or jax"""
    device: str = "cpu"
    """cpu or cuda"""
    precision: str = "fp32"
    """fp32 or bf16"""
    compile: bool = False
    """compile the block; torch only"""
    threads: int = 1
    """of the processor"""
    devices: int = 1
    """among which every batch is divided; under torchrun, its number of processes"""
    runs: Path | None = None
    """where trained runs are kept (default: $ELTBENCH_RUNS, else the user's cache folder)"""

    def act(self) -> int:
        """Train the model, also as one of torchrun's processes."""
        from eltbench.execution import torchrun
        from eltbench.execution.train import make
        from eltbench.training.loop import parts

        asked = vars(self).copy()
        allow_named((self.trainer, self.task, self.dataset))
        store = RunStore(runs_root(asked.pop("runs")))
        run = Run(**options(asked.pop("option")), **asked)
        if torchrun.launched():
            parts(run)  # refuses what cannot be
            return torchrun.train(run, store)
        outcome = make(run, store)
        for message in outcome.failed.values():
            print(f"failed: {message}", file=sys.stderr)
        if outcome.failed:
            return 1
        print(run_id(run))
        return 0


@dataclass(frozen=True)
class Sample:
    """Draw samples of one model at several loop counts, one row of pictures a loop count, from the same noise.

    Of a model of puzzles: its answers to held-out ones, a row a puzzle; with --out NAME.gif loop by loop.
    """

    run: tyro.conf.Positional[str]
    """a run's id, the beginning of one, or its folder"""
    loops: str = "1:12"
    """loop counts: 1:12 (both ends included), or 1,2,4,8"""
    samples: int = 10
    """pictures in each row, whose classes go round; or puzzles"""
    seed: int = 0
    """of the noise"""
    steps: int | None = None
    """sampling steps; the task's default if not given"""
    guidance_scale: float = 1.0
    """of classifier-free guidance; 1 is none"""
    out: Path = Path("samples.png")
    """the picture's file"""
    runs: Path | None = None
    """where trained runs are kept"""
    device: str | None = None
    """cpu or cuda; that of the run if not given"""

    def act(self) -> int:
        """Write the picture and print its name."""
        from eltbench.evaluation import settling
        from eltbench.evaluation.quality import pictures
        from eltbench.evidence import figures

        model = load_model(self.run, runs=self.runs, device=self.device)
        exits = model.exits(loop_counts(self.loops))
        if self.samples < 1:
            raise ValueError(f"samples: give at least 1, given {self.samples}")
        if max(len(exits), self.samples) > MOST_IN_A_LINE or len(exits) * self.samples > MOST_PICTURES:
            raise ValueError(
                f"sample: one file holds {MOST_IN_A_LINE} rows, {MOST_IN_A_LINE} pictures in each and "
                f"{MOST_PICTURES:,} in all at most, given {len(exits):,} loop counts of {self.samples:,} samples; "
                "`Model.sample` draws more"
            )
        if self.seed < 0:
            raise ValueError(f"seed: give 0 or more, given {self.seed}")
        if self.out.is_dir():
            raise ValueError(f"out: give the name of a picture file, given the folder {self.out}")
        check_writable(self.out.parent)
        settings: dict[str, Any] = {"guidance_scale": self.guidance_scale}
        if self.steps is not None:
            settings["steps"] = self.steps
        if model.dataset.solvable:
            if self.seed or self.steps is not None or self.guidance_scale != 1:
                raise ValueError(
                    "sample: puzzles are answered in one pass without noise; leave out seed, steps and guidance_scale"
                )
            settling.write(settling.settle(model, self.samples, exits), self.out)
            print(self.out)
            return 0
        with figures.plain():
            labels = pictures.classes(model, self.samples)
            pictures.by_loops(model, exits, labels, self.seed, **settings).savefig(self.out, dpi=150)
        print(self.out)
        return 0


def loop_counts(text: str) -> Sequence[int]:
    """Loop counts from "1:12" (both ends included) or "1,2,4"; raises ValueError for anything else."""
    try:
        if ":" in text:
            first, last = text.split(":")
            return range(int(first), int(last) + 1)
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"loops: give a range such as 1:12 or a list such as 1,2,4, given {text!r}") from None


def study(arguments: list[str]) -> int:
    """Run a study's own command line."""
    from eltbench.cli import run_study as command

    if not arguments or arguments[0].startswith("-"):
        raise ValueError(f"study: name one of {', '.join(studies.names())}")
    allow_named(arguments[:1])
    studies.registry.check(arguments[0])
    return command.main(arguments[0], arguments[1:])


def tune(arguments: list[str]) -> int:
    """Run the study that chooses rates and residual scales."""
    from eltbench.cli import run_study

    return run_study.main("tuning", arguments, "tune")


@dataclass(frozen=True)
class Compare:
    """Show which verdicts and estimates of one study moved between two folders of results."""

    first: tyro.conf.Positional[Path]
    """a folder such as results/extrapolation/digits"""
    second: tyro.conf.Positional[Path]
    """another of the same study"""

    def act(self) -> int:
        """Print how the two were made differently, the table, and for programs one line of JSON."""
        from eltbench.cli import compare as comparison

        folders = comparison.opened(self.first), comparison.opened(self.second)
        found, before = comparison.between(*folders), comparison.preliminaries(*folders)
        for line in before:
            print(line)
        tables.console().print(comparison.table(found))
        sides = {"first": str(self.first), "second": str(self.second), "differences": before}
        tell_programs({**sides, **comparison.in_short(found)})
        return 0


@dataclass(frozen=True)
class Report:
    """Write one self-contained HTML page, and a PDF of the figures, from everything in a results folder."""

    results: Path = Path("results")
    """the folder that studies wrote"""
    out: Path = Path("report.html")
    """the page; the figures' PDF has the same name"""
    narrow: bool = False
    """also presets that only show the way: smoke and quick"""

    def act(self) -> int:
        """Write both files and print their names."""
        from eltbench.evidence.report import write
        from eltbench.studies import deciding

        for path in write(self.results, self.out, studies.claims(), deciding.read_folder, narrow=self.narrow):
            print(path)
        return 0


@dataclass(frozen=True)
class Recommend:
    """Say which (N, L) to deploy here: the best held-out loss of a study's rows within a latency measured now."""

    latency_ms: float
    """what a sample may take on this device"""
    rows: Path = Path("results/depth_grid/digits/rows.parquet")
    """rows of depth_grid or extrapolation with the provenance.json beside them, or the folder that holds both"""
    world: str = ""
    """task and dataset, or a part of their names; empty: every world of the rows, each answered by itself"""
    calls: int = 1
    """network calls of a sample: its sampling steps"""
    batch: int = 1
    """samples at a time"""
    backend: str = "torch"
    """torch or jax"""
    device: str = "cpu"
    """cpu or cuda"""
    threads: int = 1
    """of the processor"""
    precision: Literal["fp32", "bf16"] = "fp32"
    mode: str = "eager"
    """eager, compiled, cuda-graph; of jax scan, unrolled"""

    def act(self) -> int:
        """Print the network to deploy and the runner-up, of each world; exits 1 where none is fast enough."""
        from eltbench.evidence import results
        from eltbench.studies.throughput import recommend as recommending

        asked = vars(self).copy()
        latency, path, world = asked.pop("latency_ms") / 1e3, asked.pop("rows"), asked.pop("world")
        if not 0 < latency < math.inf:
            raise ValueError(f"latency-ms must be above 0 and finite, given {self.latency_ms:g}")
        path = path / "rows.parquet" if path.is_dir() else path
        rows = results.load_rows(path)
        missed = False
        for name in recommending.worlds(rows, world):
            print(f"{name}: timing its networks on this {self.device} …", file=sys.stderr)
            found = recommending.candidates(path, rows, name, **asked)
            choice = recommending.choose(found, latency)
            tables.console().print(f"{name}: {recommending.conditions(**asked)}", recommending.table(found, latency))
            print(*recommending.answer(choice, latency), sep="\n")
            tell_programs({"latency_ms": latency * 1e3, "world": name, **asked, **recommending.in_short(choice)})
            missed |= choice.best is None
        return int(missed)


def doctor(arguments: list[str]) -> int:
    """Print what is here and what is missing; exits 1 where a study could not run."""
    if arguments:
        raise ValueError(f"doctor takes no arguments, given {arguments}")
    import torch

    from eltbench.evaluation.quality.features import digits_weights, full_name, inception_weights

    known = provenance()
    print(f"eltbench {known['package_version']}, python {platform.python_version()}, {known['platform']}")
    print(f"processor: {known['cpu']}, {known['cpu_count']} processors")
    for name, version in known["libraries"].items():
        print(f"  {name} {version}")
    for module, extra in (("jax", "jax"), ("dask", "cluster"), ("diffusers", "diffusers")):
        if importlib.util.find_spec(module) is None:
            print(f"  {module}: not installed; pip install 'eltbench[{extra}]'")
    for index in range(torch.cuda.device_count()):
        print(f"device cuda:{index}: {torch.cuda.get_device_name(index)}")
    if not torch.cuda.is_available():
        print("device cpu only: torch sees no CUDA device")
    print(f"digits feature extractor: {full_name('digits-conv')}")
    try:
        inception = str(inception_weights() or "not here, so no FID, KID or IS; distances use the digits extractor")
    except (ValueError, FileNotFoundError) as error:
        inception = f"not usable: {error}"
    print(f"Inception weights: {inception}")
    root = runs_root()
    print(f"run cache: {root}, {len(list(root.glob('*/done.json')))} finished runs")
    problems = 0
    for needed in (digits_weights, lambda: check_writable(root)):
        try:
            needed()
        except (ValueError, OSError) as error:
            problems += 1
            print(f"problem: {error}")
    return int(problems > 0)
