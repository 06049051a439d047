"""How answers to puzzles settle loop by loop: pictures of a few held-out items at every exit, for a world and a model.

Items are spread over the held-out difficulties, not chosen by their answers. What an exit says is the likeliest symbol
of every hidden cell in one pass, as in `solving`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from eltbench.core.atomic import replacing
from eltbench.core.streams import stream
from eltbench.data.base import Dataset
from eltbench.evaluation import solving
from eltbench.evidence import figures, puzzles
from eltbench.evidence.puzzles import Settled
from eltbench.training.model import Model

SHOWN = (1 / 4, 1 / 2, 3 / 4, 1, 3 / 2, 2, 3, 4)  # multiples of L_max in a table
FRAME, HELD = 500, 1500  # milliseconds of an exit, and of L_max and the last


def settle(model: Model, items: int, exits: Sequence[int]) -> Settled:
    """The answers of a model to so many held-out puzzles; ValueError for a world without any, and impossible exits."""
    solving.check_solvable(model.dataset)
    dataset, clean, exits = model.dataset, model.dataset.heldout(), model.exits(sorted(set(exits)))
    (batch,) = model.task.heldout(clean, model.spec, stream(model.run.dataset, 0, "heldout"), 1)
    difficulty = dataset.difficulty(clean)
    places = spread(np.zeros(len(clean.labels)) if difficulty is None else difficulty, items)
    names = [f"item {place}" for place in places] if difficulty is None else _names(dataset, difficulty[places])
    piece, symbols = batch.select(places), dataset.symbols(clean.select(places))
    hidden = piece.weight > 0
    texts = np.where(hidden, "", np.array(symbols.answers)[piece.target]) if symbols.seen is None else symbols.seen
    run = model.run
    return Settled(
        grid=model.spec.grid,
        texts=texts,
        answers=symbols.answers,
        hidden=hidden,
        target=piece.target,
        guesses=solving.guesses(model, piece, exits),
        exits=exits,
        trained=run.architecture.max_loops,
        items=tuple(names),
        title=f"{run.trainer} {run.task} {run.dataset} (seed {run.seed})",
    )


def spread(difficulty: np.ndarray, items: int) -> np.ndarray:
    """Places of so many items (or all, if fewer) from the easiest to the hardest, at even ranks."""
    ranks = np.linspace(0, len(difficulty) - 1, min(items, len(difficulty))).round().astype(int)
    return np.argsort(difficulty, kind="stable")[ranks]


def write(settled: Settled, path: Path, exits: Sequence[int] | None = None) -> None:
    """Write a table of the answers at these exits (all by default), or in a .gif every exit, one after another.

    Raises ValueError for a name that is neither of a .gif nor of a .png, .pdf or .svg.
    """
    about = f"{settled.title}: {len(settled.items)} held-out puzzles by difficulty, answered in one pass of L loops"
    if path.suffix not in (".png", ".pdf", ".svg", ".gif"):
        raise ValueError(f"out: give the name of a .png, .pdf, .svg or .gif file, given {path}")
    with figures.plain(), replacing(path) as temporary:
        if path.suffix == ".gif":
            first, *others = puzzles.frames(settled)
            shown = [HELD if at in (settled.trained, settled.exits[-1]) else FRAME for at in settled.exits]
            first.save(temporary, format="gif", save_all=True, append_images=others, duration=shown, loop=0)
        else:
            figure = puzzles.table(settled, settled.exits if exits is None else exits)
            figure.savefig(temporary, dpi=110, format=path.suffix[1:], metadata=_metadata(path, about))


def told(settled: Settled) -> list[int]:
    """The exits of a table that stays readable: parts and multiples of L_max."""
    return sorted({1, *(int(part * settled.trained) for part in SHOWN)} & set(settled.exits))


def _names(dataset: Dataset, difficulty: np.ndarray) -> list[str]:
    hardest = dataset.hardest_trained
    return [
        f"difficulty {level}" + ("\n(harder than trained)" if hardest is not None and level > hardest else "")
        for level in difficulty
    ]


def _metadata(path: Path, about: str) -> dict[str, str | None] | None:
    """Of a PNG what it shows, and no date."""
    return {"Software": None, figures.ABOUT: about} if path.suffix == ".png" else None
