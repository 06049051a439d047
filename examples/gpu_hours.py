"""eltbench as a library: GPU-hours of training and sampling, FLOPs in closed form over the FLOP/s that a GPU sustains.

    python examples/gpu_hours.py --tflops 300                              # the paper's networks, trained as it says
    python examples/gpu_hours.py extrapolation digits-gpu --tflops 20      # the runs of a preset

Of the peak that is printed on a GPU, transformers of this size commonly sustain a third to a half. Counted are the
products of the network, forward and backward (eltbench.accounting): no data, optimiser, communication or features.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import tyro

from eltbench import accounting, studies
from eltbench.accounting import Depth
from eltbench.core import tables, terminal
from eltbench.core.config import Architecture
from eltbench.execution.step_cost import step_flops
from eltbench.studies.audit.paper.conventions import Setting
from eltbench.studies.audit.paper.recount import rows_of, setting_of, shape_of
from eltbench.studies.presets import load_preset
from eltbench.training.loop import parts

IMAGENET = 1_281_167  # images of its training split
SAMPLES = 50_000  # that a Fréchet distance is usually taken over
HEAD = ("model", "trained as", "steps", "EFLOPs", "GPU-hours", f"hours of {SAMPLES:,} samples")


class Recipe(NamedTuple):
    """How long the paper trains a table's networks, and how it samples; guided, so two calls a step."""

    table: str
    batch: int
    steps: int
    sampling_steps: int


RECIPES = (
    Recipe("imagenet256_masked", 512, 270 * IMAGENET // 512, 24),  # 270 epochs
    Recipe("imagenet256_diffusion", 512, 500_000, 512),
)
"""The video networks are left out: neither batch nor steps are stated."""


class Work(NamedTuple):
    """FLOPs of one model: of its training, and of the samples it is judged by, where those are known."""

    model: str
    trained_as: str
    steps: int
    training: float
    sampling: float | None = None


def of_paper() -> Iterator[Work]:
    """Every network of the paper's two ImageNet tables, looped ones with the two exits of ILSD."""
    for recipe in RECIPES:
        setting = setting_of(recipe.table)
        assert setting is not None
        for model, row in rows_of(recipe.table).items():
            shape = shape_of(row, setting)
            assert shape is not None
            unique = row["family"] == "unique-depth"
            block = "dit" if setting.task == "diffusion" else "bert"
            architecture = Architecture(
                shape.unique_layers,
                shape.loops,
                width=shape.width,
                heads=shape.width // 64,
                mlp_ratio=shape.mlp_ratio,
                block=block,  # type: ignore[arg-type]
                patch=setting.patch,
            )
            yield _work(model, recipe, setting, architecture, "unique" if unique else "looped")


def _work(model: str, recipe: Recipe, setting: Setting, architecture: Architecture, depth: Depth) -> Work:
    network = accounting.NetworkSpec(architecture, depth, setting.spec, timed=setting.task == "diffusion")
    loops = architecture.max_loops
    exits = 1 if depth == "unique" else 2
    step = sum(accounting.step_flops(network, loops, exits).values()) * recipe.batch
    sample = accounting.sample_flops(network, loops, recipe.sampling_steps, guidance_scale=3.0)
    trained_as = "unique-depth" if depth == "unique" else "elt"
    return Work(model, trained_as, recipe.steps, float(step * recipe.steps), float(sample * SAMPLES))


def of_preset(study: str, preset: str) -> Iterator[Work]:
    """The runs of a preset, seeds of one model together; measurements are not counted."""
    by_model: dict[str, list[Work]] = {}
    for job in {job.run_id: job for job in studies.create(study).plan(load_preset(study, preset))}.values():
        run = job.run
        flops = step_flops(run, parts(run)) * run.optimisation.steps
        by_model.setdefault(job.model, []).append(Work(job.model, run.trainer, run.optimisation.steps, flops))
    for model, its in by_model.items():
        yield its[0]._replace(model=f"{model}, {len(its)} seeds", training=sum(work.training for work in its))


def lines(works: Sequence[Work], tflops: float) -> list[tuple[str, ...]]:
    """A line of text for each model, at so many TFLOP/s a GPU, and the sum; raises ValueError for none."""
    if not tflops > 0:
        raise ValueError(f"--tflops: what one GPU sustains must be above 0, given {tflops:g}")
    if not works:
        raise ValueError("this preset trains no models")

    def figures(training: float, sampling: float | None) -> tuple[str, ...]:
        hour = tflops * 1e12 * 3600
        values = (training / 1e18, training / hour, None if sampling is None else sampling / hour)
        return tuple("" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in values)

    named = [(work.model, work.trained_as, f"{work.steps:,}", *figures(work.training, work.sampling)) for work in works]
    sampling = None if works[0].sampling is None else sum(work.sampling or 0.0 for work in works)
    return [*named, ("all", "", "", *figures(sum(work.training for work in works), sampling))]


@dataclass(frozen=True)
class HoursCommand:
    """Print the GPU-hours of the paper's networks, or of a preset of a study."""

    tflops: float
    """what one GPU sustains in training at the precision that is used, 1e12 FLOP/s"""
    study: tyro.conf.Positional[str] = ""
    """a study; without one, the paper's networks"""
    preset: tyro.conf.Positional[str] = ""
    """one of its presets, or FILE.toml:NAME"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns the exit code."""
    asked = tyro.cli(HoursCommand, prog="gpu_hours.py", args=arguments)
    if asked.study and not asked.preset:
        raise ValueError(f"name a preset of {asked.study} too")
    shown = lines(list(of_preset(asked.study, asked.preset) if asked.study else of_paper()), asked.tflops)
    tables.console().print(tables.terminal(HEAD, shown, HEAD[2:]))
    return 0


if __name__ == "__main__":
    sys.exit(terminal.answer(main))
