"""What the study disagreement decides: do signals tell where a model is wrong, and does stopping by them pay?

Claims on puzzles look at items that are solved or not, at exits up to L_max. The threshold of a rule is the boldest at
which as many calibration items are solved as at L_max. They are a family of their own, since no image world can decide
them.
"""

from __future__ import annotations

from eltbench.evidence.claims import Claim, Condition
from eltbench.evidence.regions import Region

POINTS = 0.02  # a share of solved items that differs by less is taken as the same, as in extrapolation
CHEAP = "minus that of the best cheap baseline"
NEEDS = ({"trainer": "elt", "role": "main"},)


STOPPING = {"disagreement": "kl", "convergence": "latent-difference", "entropy": "entropy"}
"""Rules by what they look at: the change of the prediction, that of the state, and one exit alone."""


def _claim(id: str, statement: str, *conditions: tuple[str, str, Region], family: str = "") -> Claim:
    asked = tuple(Condition(*condition, "additive") for condition in conditions)
    section = "" if family else "not in the paper"  # the audit lists those of readers, not those of puzzles
    reference = "asked by readers of the paper"
    return Claim(id, "open question", statement, asked, section, reference, needs=NEEDS, family=family)


CLAIMS = (
    _claim(
        "exit-disagreement",
        "Disagreement between exits tells which outputs are wrong",
        ("auroc", f"AUROC within corruption strata {CHEAP}", Region(low=0.02)),
    ),
    _claim(
        "exit-convergence",
        "Convergence of the hidden state across loops tells which outputs are wrong",
        (
            "auroc",
            f"AUROC within corruption strata of the best of update norm, cosine and acceleration {CHEAP}",
            Region(low=0.02),
        ),
    ),
    _claim(
        "calibrated-stopping",
        "A calibrated stopping rule saves loops at a guaranteed quality",
        (
            "valid",
            "share of calibration sets whose risk exceeds α = 0.05 under learn-then-test at δ = 0.1",
            Region(high=0.1),
        ),
        ("saved", "share of loops a sample saved by that rule", Region(low=0.2)),
    ),
)
OF_PUZZLES = (
    _claim(
        "later-on-harder",
        "Stopping rules stop later on harder items",
        *(
            (name, f"rank correlation of the loop where `{rule}` stops an item and its difficulty", Region(low=0.1))
            for name, rule in STOPPING.items()
        ),
        family="solving",
    ),
    _claim(
        "saved-at-equal-solving",
        "Stopping by the disagreement of exits saves loops at equal solving, and more than a fixed depth",
        ("solved", "share of items solved where `kl` stops minus that at L_max", Region(low=-POINTS)),
        ("saved", "share of loops an item saved by `kl`", Region(low=0.2)),
        ("over-fixed", "that share minus what a fixed depth saves at equal solving", Region(low=0.0)),
        family="solving",
    ),
)
