"""What the study extrapolation decides: the loss at one exit over that at another, each at a multiple of L_max."""

from __future__ import annotations

from typing import Any, NamedTuple

from eltbench.evidence.claims import Claim, Condition


class At(NamedTuple):
    """A trainer's main model at a multiple of its L_max."""

    trainer: str
    multiple: float = 1


def _claim(id: str, kind: str, statement: str, *conditions: Condition, **about: Any) -> Claim:
    """A claim that needs the main models which its conditions compare."""
    trainers = sorted({side.trainer for condition in conditions for side in condition.compares})
    needs = tuple({"trainer": trainer, "role": "main"} for trainer in trainers)
    return Claim(id, kind, statement, conditions, needs=needs, **about)


UPDATE_NORMS = "relative update norm of the late loops, noisiest over cleanest quarter of denoising"
SCALED_PAIR = "loss of 6N×4L over unique 24, or the preset's scaled pair"
ELT, VANILLA = At("elt"), At("no-ilsd")
CLAIMS = (
    _claim(
        "elastic",
        "headline",
        "A model trained with ILSD keeps its quality at exits below L_max",
        Condition.of_ratio("half", "loss at L_max/2 over L_max, elt", At("elt", 0.5), ELT, below=1.02),
        paper_section="5.4; Fig. 1 and 8",
        reference="curves only",
    ),
    _claim(
        "vanilla-collapse",
        "headline",
        "A looped model trained without ILSD is only good at the loop count it was trained with",
        Condition.of_ratio("half", "loss at L_max/2 over L_max, no-ilsd", At("no-ilsd", 0.5), VANILLA, above=1.05),
        Condition.of_ratio("double", "loss at 2·L_max over L_max, no-ilsd", At("no-ilsd", 2), VANILLA, above=1.05),
        paper_section="5.4; Fig. 1b",
        reference="curves only",
    ),
    _claim(
        "vanilla-parity",
        "mechanism",
        "Without ILSD the looped model is competitive at L = L_max",
        Condition.of_ratio("at-max", "loss of no-ilsd over elt, both at L_max", VANILLA, ELT, below=1.02),
        paper_section="5.2",
        reference="curves only",
    ),
    _claim(
        "over-iteration",
        "limitation",
        "Running far more loops than L_max at inference makes quality worse than at L_max",
        Condition.of_ratio("triple", "loss at 3·L_max over L_max, elt", At("elt", 3), ELT, above=1.02),
        paper_section="App. C (ii)",
        reference="no number given",
    ),
    _claim(
        "modest-extrapolation",
        "headline",
        "With ILSD the best loop count can lie moderately above L_max",
        Condition.of_ratio("one-and-a-half", "loss at 1.5·L_max over L_max, elt", At("elt", 1.5), ELT, below=0.995),
        paper_section="5.4",
        reference="FVD 69.20 at L = 6 after training with L_max = 4 (72.8 at L = 4)",
    ),
    Claim(
        "update-norms",
        "mechanism",
        "Early denoising steps make larger updates in the later loops than late denoising steps do",
        (Condition.of_ratio("late-loops", UPDATE_NORMS, above=1.1),),
        paper_section="App. B Fig. 14",
        reference="curves only",
        needs=({"trainer": "elt", "role": "main"},),
    ),
)

UNASKED = (
    Claim(
        "low-data-video",
        "headline",
        "In the low-data video setting the looped model beats the unique-depth one at equal compute",
        (Condition.of_ratio("equal-compute", SCALED_PAIR, below=1.0),),
        paper_section="5.3",
        reference="FVD 72.8 vs 76 (76M vs 306M)",
    ),
)
"""Claims of the paper for which there is no world yet."""
