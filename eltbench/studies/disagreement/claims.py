"""What the study disagreement decides: do signals tell where a model is wrong, and does stopping by them pay?"""

from __future__ import annotations

from eltbench.evidence.claims import Claim, Condition
from eltbench.evidence.regions import Region

CHEAP = "minus that of the best cheap baseline"
NEEDS = ({"trainer": "elt", "role": "main"},)


def _claim(id: str, statement: str, *conditions: tuple[str, str, Region]) -> Claim:
    asked = tuple(Condition(*condition, "additive") for condition in conditions)
    of_readers = {"paper_section": "not in the paper", "reference": "asked by readers of the paper"}
    return Claim(id, "open question", statement, asked, needs=NEEDS, **of_readers)


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
