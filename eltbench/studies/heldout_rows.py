"""What studies of quality ask of every model, and what they publish of its held-out evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from eltbench.core.config import Architecture, Run, decisive
from eltbench.evaluation.heldout import Heldout
from eltbench.evaluation.quality.distances import FEWEST
from eltbench.evaluation.quality.features import full_name
from eltbench.evaluation.quality.samples import check_scores
from eltbench.training.loop import Parts

MOST_REPEATS = 10_000  # of whatever a measurement does over and over; more is a slip, and would take days


@dataclass(frozen=True)
class Observation:
    """What a preset's table `measurement` may say in every study of quality."""

    heldout_draws: int = 4  # corruptions of every held-out item
    samples: int = 0  # how many; 0 for a world without images
    sampling: Mapping[str, Any] = field(default_factory=dict)  # options of the task's sampler
    feature_extractors: tuple[str, ...] = ("digits-conv",)  # the first is the second witness's

    def __post_init__(self) -> None:
        check_least(self, heldout_draws=1)
        check_repeats(self, "heldout_draws")
        if self.samples < 0 or 0 < self.samples < FEWEST:
            raise ValueError(f"measurement: samples must be 0 or at least {FEWEST}, given {self.samples}")

    def settings(self, run: Run, made: Parts) -> dict[str, Any]:
        """These as settings of a measurement of such a run; ValueError for what could not be measured of it."""
        sampling = made.task.sampling(**self.sampling)
        extractors = [full_name(name) for name in self.feature_extractors]
        if self.samples:
            check_scores(made, run.optimisation.label_dropout, self.samples, sampling.guidance_scale, extractors)
        return {
            "heldout_draws": self.heldout_draws,
            "samples": self.samples,
            "sampling": decisive(sampling, asdict(sampling)),
            "feature_extractors": extractors,
        }


def check_least(measurement: Any, **least: int) -> None:
    """Refuse (ValueError) a number below its least value, alone or in a list."""
    for name, bound in least.items():
        given = getattr(measurement, name)
        if any(value < bound for value in np.atleast_1d(given)):
            given = list(given) if isinstance(given, tuple) else given
            raise ValueError(f"measurement: {name} must be at least {bound}, given {given}")


def check_repeats(measurement: Any, *names: str) -> None:
    """Refuse (ValueError) a measurement whose numbers of repetitions nobody waits for."""
    for name in names:
        if (given := getattr(measurement, name)) > MOST_REPEATS:
            raise ValueError(f"measurement: {name} must be at most {MOST_REPEATS:,}, given {given:,}")


def heldout_rows(losses: Heldout, architecture: Architecture) -> list[dict[str, Any]]:
    """The loss at each exit; where the world has strata, the accuracy by distance and, under a radius, the reach."""
    size, radius = losses.weights.size, architecture.attention_radius

    def row(metric: str, loops: int, value: float, **known: Any) -> dict[str, Any]:
        return {"loops": loops, "split": "heldout", "metric": metric, "value": float(value), **known}

    about: dict[str, Any] = {"higher_is_better": False, "n_samples": size}
    rows = [row("heldout_loss", *at, **about) for at in zip(losses.exits, losses.losses, strict=True)]
    for loops, correct in zip(losses.exits, losses.correct, strict=True) if losses.correct is not None else ():
        for stratum, value, seen in zip(losses.strata, correct, losses.seen, strict=True):
            about = {"higher_is_better": True, "n_samples": seen, "stratum": f"distance {stratum}"}
            rows.append(row("token_accuracy", loops, value, **about))
        if radius is not None:  # the theorem's line: N·L·ρ, a prelude and a coda added to N·L
            reach = float(architecture.depth_at(loops) * radius)
            rows.append({"loops": loops, "metric": "reach", "value": reach})
    return rows


def item_table(losses: Heldout) -> pd.DataFrame:
    """One line per exit, draw and item: loops, draw, item, loss and weight."""
    draws, items = losses.weights.shape
    return pd.DataFrame(
        {
            "loops": np.repeat(losses.exits, draws * items),
            "draw": np.tile(np.repeat(np.arange(draws), items), len(losses.exits)),
            "item": np.tile(np.arange(items), len(losses.exits) * draws),
            "loss": losses.errors.ravel(),
            "weight": np.tile(losses.weights.ravel(), len(losses.exits)),
        }
    )
