"""What the study extrapolation decides: the loss at one exit over that at another, each at a multiple of L_max."""

from __future__ import annotations

from typing import Any, NamedTuple

from eltbench.evidence.claims import Claim, Condition
from eltbench.evidence.regions import Region


class At(NamedTuple):
    """A trainer's main model at a multiple of its L_max."""

    trainer: str
    multiple: float = 1


def _claim(id: str, kind: str, statement: str, *conditions: Condition, **about: Any) -> Claim:
    """A claim that needs the main models which its conditions compare."""
    trainers = sorted({side.trainer for condition in conditions for side in condition.compares})
    return Claim(id, kind, statement, conditions, needs=tuple(_main(trainer) for trainer in trainers), **about)


def _main(trainer: str) -> dict[str, str]:
    return {"trainer": trainer, "role": "main"}


CLAIMS = (
    _claim(
        "elastic",
        "headline",
        "A model trained with ILSD keeps its quality at exits below L_max",
        Condition(
            "half",
            "loss at L_max/2 over L_max, elt",
            Region.of_ratio(below=1.02),
            compares=(At("elt", 0.5), At("elt")),
        ),
        paper_section="5.4; Fig. 1 and 8",
        reference="curves only",
    ),
    _claim(
        "vanilla-collapse",
        "headline",
        "A looped model trained without ILSD is only good at the loop count it was trained with",
        Condition(
            "half",
            "loss at L_max/2 over L_max, no-ilsd",
            Region.of_ratio(above=1.05),
            compares=(At("no-ilsd", 0.5), At("no-ilsd")),
        ),
        Condition(
            "double",
            "loss at 2·L_max over L_max, no-ilsd",
            Region.of_ratio(above=1.05),
            compares=(At("no-ilsd", 2), At("no-ilsd")),
        ),
        paper_section="5.4; Fig. 1b",
        reference="curves only",
    ),
    _claim(
        "vanilla-parity",
        "mechanism",
        "Without ILSD the looped model is competitive at L = L_max",
        Condition(
            "at-max",
            "loss of no-ilsd over elt, both at L_max",
            Region.of_ratio(below=1.02),
            compares=(At("no-ilsd"), At("elt")),
        ),
        paper_section="5.2",
        reference="curves only",
    ),
    _claim(
        "over-iteration",
        "limitation",
        "Running far more loops than L_max at inference makes quality worse than at L_max",
        Condition(
            "triple",
            "loss at 3·L_max over L_max, elt",
            Region.of_ratio(above=1.02),
            compares=(At("elt", 3), At("elt")),
        ),
        paper_section="App. C (ii)",
        reference="no number given",
    ),
    _claim(
        "modest-extrapolation",
        "headline",
        "With ILSD the best loop count can lie moderately above L_max",
        Condition(
            "one-and-a-half",
            "loss at 1.5·L_max over L_max, elt",
            Region.of_ratio(below=0.995),
            compares=(At("elt", 1.5), At("elt")),
        ),
        paper_section="5.4",
        reference="FVD 69.20 at L = 6 after training with L_max = 4 (72.8 at L = 4)",
    ),
    Claim(
        "update-norms",
        "mechanism",
        "Early denoising steps make larger updates in the later loops than late denoising steps do",
        (
            Condition(
                "late-loops",
                "relative update norm of the late loops, noisiest over cleanest quarter of denoising",
                Region.of_ratio(above=1.1),
            ),
        ),
        paper_section="App. B Fig. 14",
        reference="curves only",
        needs=(_main("elt"),),
    ),
)

UNASKED = (
    Claim(
        "low-data-video",
        "headline",
        "In the low-data video setting the looped model beats the unique-depth one at equal compute",
        (
            Condition(
                "equal-compute",
                "loss of 6N×4L over unique 24, or the preset's scaled pair",
                Region.of_ratio(below=1.0),
            ),
        ),
        paper_section="5.3",
        reference="FVD 72.8 vs 76 (76M vs 306M)",
    ),
)
"""Claims of the paper for which there is no world yet."""
