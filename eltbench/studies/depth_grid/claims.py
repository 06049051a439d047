"""What the study depth_grid decides: the loss of one size over that of another, each at its own depth."""

from __future__ import annotations

from typing import Any, NamedTuple

from eltbench.evidence.claims import Claim, Condition
from eltbench.evidence.regions import Region


class Trained(NamedTuple):
    """A model at the loop count that it was trained for."""

    trainer: str
    role: str
    unique_layers: int
    max_loops: int


ELT = {(layers, loops): Trained("elt", "main", layers, loops) for layers, loops in ((1, 8), (2, 4), (4, 2))}
UNIQUE = Trained("unique-depth", "equal-compute", 8, 1)
DEDICATED = {loops: Trained("no-ilsd", "dedicated", 2, loops) for loops in (1, 2, 4, 8)}
SMALL = "loss of 1N×8L over 4N×2L, each at its L_max"
GAIN = "gain from 1 to 2 loops minus gain from 4 to 8, dedicated models"


def _claim(id: str, kind: str, statement: str, *conditions: Condition, **about: Any) -> Claim:
    """A claim that needs the models which its conditions compare."""
    models = [model for condition in conditions for model in condition.compares]
    return Claim(id, kind, statement, conditions, needs=tuple(model._asdict() for model in models), **about)


CLAIMS = (
    _claim(
        "small-n",
        "limitation",
        "At equal effective depth a block with too few unique layers is worse, whatever the loop count",
        Condition.of_ratio("small-block", SMALL, ELT[1, 8], ELT[4, 2], above=1.02),
        paper_section="App. C (i); 5.2",
        reference="FID 10.30 at 1Nx32L vs 3.96 / 3.16 / 2.83 at 4Nx8L / 8Nx4L / 16Nx2L",
    ),
    _claim(
        "iso-compute",
        "headline",
        "At equal inference compute ELT matches the unique-depth model with about 4x fewer parameters",
        Condition.of_ratio("quarter", "loss of 2N×4L over unique 8", ELT[2, 4], UNIQUE, below=1.02),
        paper_section="Table 1; 5.2",
        reference="FID 2.0 vs 2.0 (111M vs 446M)",
    ),
    _claim(
        "iso-compute-gain",
        "headline",
        "At equal inference compute and half the parameters ELT beats the unique-depth model",
        Condition.of_ratio("half", "loss of 4N×2L over unique 8", ELT[4, 2], UNIQUE, below=0.98),
        paper_section="5.2",
        reference="FID 2.83 vs 3.43 (16Nx2L vs DiT-32)",
    ),
    _claim(
        "diminishing-loops",
        "mechanism",
        "For fixed N more loops help with diminishing returns; past a point a larger N is the better use of compute",
        Condition("gain", GAIN, Region(low=0.0), "additive", compares=tuple(DEDICATED.values())),
        Condition.of_ratio("small-block", "loss of 1N×8L over 2N×4L", ELT[1, 8], ELT[2, 4], above=1.0),
        paper_section="Fig. 4",
        reference="curves only",
    ),
)
