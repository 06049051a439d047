"""What the study convergence decides: how soon a looped model is as good, and whether λ's decay matters."""

from __future__ import annotations

from typing import NamedTuple

from eltbench.evidence.claims import Claim, Condition


class Ended(NamedTuple):
    """A variant of elt, by its role, at the end of its training and a multiple of its L_max."""

    role: str
    multiple: float


def _decay(name: str, at: str, multiple: float) -> Condition:
    cosine, linear = Ended("cosine", multiple), Ended("main", multiple)
    return Condition.of_ratio(name, f"loss of cosine over linear decay at {at}", cosine, linear, above=0.98, below=1.02)


COMMON = "steps of elt to the worse of its and the unique-depth model's final loss, over that one's"

CLAIMS = (
    Claim(
        "convergence",
        "headline",
        "ELT reaches the unique-depth model's quality in fewer training steps",
        (
            Condition.of_ratio("steps", "steps to the unique-depth model's final loss over its own steps", below=0.9),
            Condition.of_ratio("common-target", COMMON, below=0.9),
        ),
        paper_section="Fig. 6",
        reference="2x at 16Nx2L and 1.4x at 8Nx4L",
        needs=({"trainer": "elt", "role": "main"}, {"trainer": "unique-depth"}),
    ),
    Claim(
        "lambda-insensitive",
        "mechanism",
        "The result does not depend on how fast lambda decays as long as it is gradual",
        (_decay("half", "L_max/2", 0.5), _decay("at-max", "L_max", 1.0)),
        paper_section="4",
        reference="no number given",
        needs=({"trainer": "elt", "role": "main"}, {"trainer": "elt", "role": "cosine"}),
    ),
)
