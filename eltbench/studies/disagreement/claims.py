"""What the study disagreement decides: do signals tell where a model is wrong, and does stopping by them pay?"""

from __future__ import annotations

from eltbench.evidence.claims import Claim, Condition
from eltbench.evidence.regions import Region

ELT = ({"trainer": "elt", "role": "main"},)
ASKED = {"paper_section": "not in the paper", "reference": "asked by readers of the paper"}

CLAIMS = (
    Claim(
        "exit-disagreement",
        "open question",
        "Disagreement between exits tells which outputs are wrong",
        (
            Condition(
                "auroc",
                "AUROC within corruption strata minus that of the best cheap baseline",
                Region(low=0.02),
                "additive",
            ),
        ),
        needs=ELT,
        **ASKED,
    ),
    Claim(
        "exit-convergence",
        "open question",
        "Convergence of the hidden state across loops tells which outputs are wrong",
        (
            Condition(
                "auroc",
                "AUROC within corruption strata of the best of update norm, cosine and acceleration minus that of the "
                "best cheap baseline",
                Region(low=0.02),
                "additive",
            ),
        ),
        needs=ELT,
        **ASKED,
    ),
    Claim(
        "calibrated-stopping",
        "open question",
        "A calibrated stopping rule saves loops at a guaranteed quality",
        (
            Condition(
                "valid",
                "share of calibration sets whose risk exceeds α = 0.05 under learn-then-test at δ = 0.1",
                Region(high=0.1),
                "additive",
            ),
            Condition("saved", "share of loops a sample saved by that rule", Region(low=0.2), "additive"),
        ),
        needs=ELT,
        **ASKED,
    ),
)
