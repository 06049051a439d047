"""Statements about the rows of the paper's tables, as data: what is compared with what, and what claims quote.

A statement is the paper's own (its claim is named), or says what the tables should satisfy if sharing layers were all
that differs between two rows. What the tables answer is computed in `consequences`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

MASKED, DIFFUSION, VIDEO = "imagenet256_masked", "imagenet256_diffusion", "ucf101_masked"
THROUGHPUT = "throughput_tpu_v6e"


class Pair(NamedTuple):
    """A model, and the baseline of its table that the paper sets beside it."""

    table: str
    model: str
    baseline: str


PAIRS = (
    Pair(MASKED, "ELT-L 8Nx3L", "MaskGIT-L"),
    Pair(MASKED, "ELT-L 12Nx2L", "MaskGIT-L"),
    Pair(MASKED, "ELT-XL 7Nx4L", "MaskGIT-XL"),
    Pair(DIFFUSION, "ELT 1Nx32L", "DiT-32"),
    Pair(DIFFUSION, "ELT 4Nx8L", "DiT-32"),
    Pair(DIFFUSION, "ELT 8Nx4L", "DiT-32"),
    Pair(DIFFUSION, "ELT 16Nx2L", "DiT-32"),
    Pair(VIDEO, "ELT 6Nx4L", "MAGVIT-L"),
    Pair(VIDEO, "ELT 6Nx6L", "MAGVIT-L"),
    Pair(VIDEO, "ELT 6Nx4L at L=6", "MAGVIT-L"),
)

HIGHER_IS_BETTER = {"fid": False, "fvd": False, "inception_score": True}


class Factor(NamedTuple):
    """How many times fewer parameters a claim says that a model has than its baseline, as printed."""

    claim: str
    pair: Pair
    factor: str


FACTORS = (
    Factor("iso-compute", Pair(MASKED, "ELT-XL 7Nx4L", "MaskGIT-XL"), "4"),  # "about 4x fewer parameters"
    Factor("iso-compute-gain", Pair(DIFFUSION, "ELT 16Nx2L", "DiT-32"), "2"),  # "half the parameters"
)


@dataclass(frozen=True)
class Quote:
    """Figures of one column that a claim's reference quotes, by row."""

    claim: str
    table: str
    column: str
    figures: dict[str, str]


QUOTES = (
    Quote(
        "small-n",
        DIFFUSION,
        "fid",
        {"ELT 1Nx32L": "10.30", "ELT 4Nx8L": "3.96", "ELT 8Nx4L": "3.16", "ELT 16Nx2L": "2.83"},
    ),
    Quote("iso-compute", MASKED, "fid", {"ELT-XL 7Nx4L": "2.0", "MaskGIT-XL": "2.0"}),
    Quote("iso-compute", MASKED, "params_m", {"ELT-XL 7Nx4L": "111", "MaskGIT-XL": "446"}),
    Quote("iso-compute-gain", DIFFUSION, "fid", {"ELT 16Nx2L": "2.83", "DiT-32": "3.43"}),
    Quote("modest-extrapolation", VIDEO, "fvd", {"ELT 6Nx4L at L=6": "69.20", "ELT 6Nx4L": "72.8"}),
    Quote("low-data-video", VIDEO, "fvd", {"ELT 6Nx4L": "72.8", "MAGVIT-L": "76"}),
    Quote("low-data-video", VIDEO, "params_m", {"ELT 6Nx4L": "76", "MAGVIT-L": "306"}),
    Quote(
        "throughput",
        THROUGHPUT,
        "throughput_ratio_vs_same_scale_baseline",
        {"B": "1.0", "L": "2.9", "XL": "3.3", "H": "3.5"},
    ),
)

ONE_CONVENTION = (
    ((MASKED,), "params_m"),
    ((DIFFUSION,), "params_m"),
    ((VIDEO,), "params_m"),
    ((MASKED,), "gflops_k"),
    ((VIDEO,), "gflops_k"),
    ((MASKED, VIDEO), "gflops_k"),
)
"""Tables whose rows should all fit under one convention, and the quantity."""

STEP_COSTS = ((MASKED, "ELT-L 8Nx3L"), (MASKED, "ELT-XL 7Nx4L"), (VIDEO, "ELT 6Nx4L"))
"""Rows whose training step is counted with ILSD's second exit and without."""

UNCHECKED = {
    "convergence": "read from curves whose numbers are not published",
    "train-memory": "depends on the batch per device and on what is computed again; neither is given",
}
"""Claims with figures that no table holds and no convention gives, with the reason."""
WITHOUT_FIGURE = {
    "curves only": "read from curves whose numbers are not published",
    "no number given": "the paper gives no number",
    "asked by readers of the paper": "not a claim of the paper",
}
"""What a claim's reference says where it has no figure, with the reason that nothing is recomputed."""
