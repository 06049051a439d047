"""What the study throughput decides on the machine that it runs on."""

from __future__ import annotations

from eltbench.evidence.claims import Claim, Condition
from eltbench.evidence.regions import Region

TIERS = 3  # device tiers that operating-point asks for

CLAIMS = (
    Claim(
        "throughput",
        "headline",
        "Sharing weights raises sampling throughput once the unique-depth weights no longer fit near the compute "
        "units; no gain when they do",
        (
            Condition(
                "spills",
                "throughput of looped over unique, unique weights over twice the cache and the block under half of it",
                Region.of_ratio(above=1.1),
            ),
            Condition(
                "fits",
                "throughput of looped over unique, both fit in the cache",
                Region.of_ratio(above=0.95, below=1.05),
            ),
        ),
        paper_section="5.2",
        reference="1.0 / 2.9 / 3.3 / 3.5 at scales B / L / XL / H, batch 8",
    ),
    Claim(
        "step-cost",
        "headline",
        "ILSD adds next to nothing to the cost of a training step",
        (Condition("step-time", "training step time of elt over no-ilsd", Region.of_ratio(below=1.1)),),
        paper_section="4; App. B",
        reference="step time reported unchanged",
    ),
    Claim(
        "train-memory",
        "headline",
        "Sharing weights lowers peak training memory",
        (Condition("peak-memory", "peak training memory of 8N×4L over unique 32", Region.of_ratio(below=0.9)),),
        paper_section="App. B Table 8",
        reference="-34% at 8Nx4L vs 32 layers",
    ),
    Claim(
        "operating-point",
        "limitation",
        "The best (N, L) depends on model scale and hardware and has to be calibrated per deployment tier",
        (),
        paper_section="App. C",
        reference="no number given",
        undecidable=f"the claim compares at least {TIERS} tiers of devices, and one command measures one machine",
    ),
)
