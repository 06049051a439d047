"""`eltbench.plot`: the figure of every study from its rows, and a model's samples, as matplotlib's figures.

rows: as `eltbench.load_rows` gives them, also a part of them, such as one task. A notebook shows a figure as a cell's
last value after `%matplotlib inline`. All raise ValueError for rows of which there is nothing to draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from eltbench import studies
from eltbench.evaluation import settling
from eltbench.evaluation.quality import pictures
from eltbench.evidence import figures, puzzles
from eltbench.studies import curves

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from eltbench.training.model import Model


def quality_by_loops(rows: pd.DataFrame) -> Figure:
    """Held-out loss and quality by loops at inference, with controls: of extrapolation, or of any study by loops."""
    if not (rows["metric"] == "heldout_loss").any():
        raise ValueError("quality_by_loops: these rows hold no heldout_loss")
    with figures.plain():
        return curves.figure(rows)


def quality_by_cost(rows: pd.DataFrame) -> Figure:
    """The frontiers of depth_grid: loss by parameters, MACs and time."""
    return _figure("depth_grid", rows)


def loss_by_training(rows: pd.DataFrame) -> Figure:
    """The training curves of convergence, and where each model reaches its target."""
    return _figure("convergence", rows)


def errors_foreseen(rows: pd.DataFrame) -> Figure:
    """Of disagreement: what exits tell of errors, and what early exits cost and run."""
    return _figure("disagreement", rows)


def speed_by_sharing(rows: pd.DataFrame) -> Figure:
    """Of throughput: looped against unique layers, beside the ceilings of the machine."""
    return _figure("throughput", rows)


def loss_by_rate(rows: pd.DataFrame) -> Figure:
    """Of tuning: validation loss by learning rate, with the rate chosen."""
    return _figure("tuning", rows)


def deviations_of_the_paper(rows: pd.DataFrame) -> Figure:
    """Of audit: the paper's figures beside those counted again."""
    return _figure("audit", rows)


def samples_by_loops(
    model: Model,
    labels: int | Sequence[int] | np.ndarray = 10,
    loops: Sequence[int] = range(1, 13),
    *,
    seed: int = 0,
    **settings: Any,
) -> Figure:
    """One row of samples a loop count, all from the same noise; of a model of puzzles its answers, a row a puzzle.

    labels: the class of each sample, or how many samples, whose classes go round; of puzzles they only count. settings:
    of `Task.sampling`. Raises ValueError for impossible loops, a world that shows neither images nor puzzles, and a
    seed or settings for puzzles, which are answered in one pass without noise.
    """
    exits = model.exits(loops)
    count = labels if isinstance(labels, int) else len(labels)
    if count < 1:
        raise ValueError(f"samples_by_loops: give at least 1 sample, given {labels!r}")
    with figures.plain():
        if model.dataset.solvable:
            if seed or settings:
                raise ValueError("samples_by_loops: puzzles are answered without noise; leave seed and settings out")
            return puzzles.table(settling.settle(model, count, exits), exits)
        classes = pictures.classes(model, count) if isinstance(labels, int) else np.asarray(labels)
        return pictures.by_loops(model, exits, classes, seed, **settings)


def _figure(study: str, rows: pd.DataFrame) -> Figure:
    found = sorted(set(rows["study"]))
    if found != [study]:
        raise ValueError(f"give rows of study {study!r}, given {f'rows of {found}' if found else 'none'}")
    with figures.plain():
        return studies.create(study).figure(rows)
