"""What the study tuning decides: whether a looped block needs its residual scale, and whether its rate transfers."""

from __future__ import annotations

from eltbench.evidence.claims import Claim, Condition

LOOPED = ("elt", "no-ilsd")
TRANSFER = "no-ilsd"  # the trainer whose rate is taken from few loops to many
REFERENCE = "arXiv 2606.18524"


def _scaled(trainer: str) -> Condition:
    what = f"loss at L_max of {trainer} with residual scale over without, each at its best other settings"
    return Condition.of_ratio(trainer, what, below=0.99)


CLAIMS = (
    Claim(
        "loop-needs-scale",
        "open question",
        "A looped block reaches a lower loss with what its layers add scaled by 1/(L_max √N)",
        tuple(_scaled(trainer) for trainer in LOOPED),
        reference=f"{REFERENCE}: updates of a shared block are correlated",
        needs=tuple({"trainer": trainer, "role": "main"} for trainer in LOOPED),
    ),
    Claim(
        "rate-transfer",
        "open question",
        "With residual scale, settings chosen at few loops are as good at many",
        (
            Condition.of_ratio(
                "scaled",
                "loss at the most loops with the settings chosen at the fewest, over that with its own choice",
                below=1.01,
            ),
        ),
        reference=f"{REFERENCE}: the best rate depends on N only",
        needs=({"trainer": TRANSFER},),
    ),
)
