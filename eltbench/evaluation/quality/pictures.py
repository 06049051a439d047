"""Pictures that a study leaves beside its rows, by loops: samples, and answers to puzzles, one of each a world."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eltbench.core.atomic import replacing
from eltbench.training.job import Job
from eltbench.training.model import Model, load_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLES = 10  # in a row
PUZZLES = 4


def classes(model: Model, samples: int) -> np.ndarray:
    """Labels of so many samples (samples,), the classes going round."""
    return np.arange(samples, dtype=np.int32) % max(1, model.spec.classes)


def by_loops(model: Model, exits: Sequence[int], labels: np.ndarray, seed: int, **settings: Any) -> Figure:
    """One row of samples a loop count, all from the same noise, one a label; settings of the sampler.

    Raises ValueError where the model's world holds no images.
    """
    from eltbench.evidence import figures

    if model.dataset.images(model.dataset.heldout().values[:1]) is None:
        raise ValueError(f"dataset {model.run.dataset!r} holds no images to draw")
    drawn = [model.dataset.images(model.sample(labels, loops, seed=seed, **settings)) for loops in exits]
    images = np.stack([each for each in drawn if each is not None])
    return figures.pictures(images, [f"L = {loops}" for loops in exits], title(model))


def title(model: Model) -> str:
    """What a picture of this model's samples shows."""
    run = model.run
    return f"{run.trainer} {run.task} {run.dataset}, trained with L_max = {run.architecture.max_loops}"


def write(folder: Path, jobs: Sequence[Job], runs: Path, trained: Collection[str]) -> list[Path]:
    """Write pictures of elt for each world, from the first seed of `jobs`, and return what was written.

    samples-TASK-DATASET-BACKEND.png where it was sampled, with the measurement's settings; puzzles-….png and .gif where
    puzzles were solved. jobs: of models that are there. runs: the run cache. trained: the runs that this command
    trained or measured; a picture that is there is made anew for these alone. A picture says in its own text what it
    shows.
    """
    chosen: dict[Path, Job] = {}
    for job in jobs:
        run = job.run
        if run.trainer == "elt" and job.keys.get("role") == "main":
            world = f"{run.task}-{run.dataset}-{run.backend}"
            names = [f"samples-{world}.png"] if job.settings.get("sample_loops") else []
            names += [f"puzzles-{world}.png", f"puzzles-{world}.gif"] if job.settings.get("solving") else []
            for name in names:
                chosen.setdefault(folder / name, job)
    written = []
    for path, job in chosen.items():
        if job.run_id in trained or not path.exists():
            model = load_model(job.run_id, runs=runs)
            _draw_samples(path, model, job) if path.name.startswith("samples") else _draw_puzzles(path, model, job)
            written.append(path)
    return written


def _draw_samples(path: Path, model: Model, job: Job) -> None:
    from eltbench.evidence import figures

    seed = job.run.seed
    about = f"Samples of {title(model)} (seed {seed}), a row a loop count, all from the same noise"
    with figures.plain(), replacing(path) as temporary:
        figure = by_loops(
            model, job.settings["sample_loops"], classes(model, SAMPLES), seed=seed, **job.settings["sampling"]
        )
        metadata = {"Software": None, figures.ABOUT: about}  # without a date
        figure.savefig(temporary, format="png", dpi=100, metadata=metadata)


def _draw_puzzles(path: Path, model: Model, job: Job) -> None:
    from eltbench.evaluation import settling

    settled = settling.settle(model, PUZZLES, job.settings["exits"])
    settling.write(settled, path, settling.told(settled))
