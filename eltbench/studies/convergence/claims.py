"""What the study convergence decides: how soon a looped model is as good, and whether λ's decay matters."""

from __future__ import annotations

from eltbench.evidence.claims import Claim, Condition
from eltbench.evidence.regions import Region

CLAIMS = (
    Claim(
        "convergence",
        "headline",
        "ELT reaches the unique-depth model's quality in fewer training steps",
        (
            Condition(
                "steps",
                "steps to the unique-depth model's final loss over its own steps",
                Region.of_ratio(below=0.9),
            ),
            Condition(
                "common-target",
                "steps of elt to the worse of its and the unique-depth model's final loss, over that one's",
                Region.of_ratio(below=0.9),
            ),
        ),
        paper_section="Fig. 6",
        reference="2x at 16Nx2L and 1.4x at 8Nx4L",
        needs=({"trainer": "elt", "role": "main"}, {"trainer": "unique-depth"}),
    ),
    Claim(
        "lambda-insensitive",
        "mechanism",
        "The result does not depend on how fast lambda decays as long as it is gradual",
        (
            Condition("half", "loss of cosine over linear decay at L_max/2", Region.of_ratio(above=0.98, below=1.02)),
            Condition("at-max", "loss of cosine over linear decay at L_max", Region.of_ratio(above=0.98, below=1.02)),
        ),
        paper_section="4",
        reference="no number given",
        needs=({"trainer": "elt", "role": "main"}, {"trainer": "elt", "role": "cosine"}),
    ),
)
