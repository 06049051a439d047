"""Studies: one question asked of many runs. `python -m eltbench.studies.NAME` is `eltbench study NAME`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eltbench.core.registry import Registry, lazy
from eltbench.core.validation import unknown

if TYPE_CHECKING:
    from eltbench.evidence.claims import Claim
    from eltbench.studies.base import Measured, Study

registry: Registry[Study] = Registry(
    "study",
    "studies",
    {
        "audit": "eltbench.studies.audit.study:Audit",
        "convergence": "eltbench.studies.convergence.study:Convergence",
        "depth_grid": "eltbench.studies.depth_grid.study:DepthGrid",
        "disagreement": "eltbench.studies.disagreement.study:Disagreement",
        "extrapolation": "eltbench.studies.extrapolation.study:Extrapolation",
        "throughput": "eltbench.studies.throughput.study:Throughput",
        "tuning": "eltbench.studies.tuning.study:Tuning",
    },
    base="eltbench.studies.base:Study",
)
__getattr__ = lazy(__name__, "base", "Measured", "Study")  # these need pandas and pyarrow, naming a study does not
register, get, create, names = registry.register, registry.get, registry.create, registry.names

__all__ = ["Measured", "Study", "claim", "claims", "create", "get", "names", "register", "registry"]


def claims() -> dict[str, tuple[Claim, ...]]:
    """The claims of every built-in study, those for which there is no world yet among them."""
    return {name: (*(study := get(name)).claims, *study.unasked) for name in registry.builtin}


def claim(id: str) -> Claim:
    """The claim with this id; an unknown one raises ValueError with the near miss."""
    known = {claim.id: claim for its in claims().values() for claim in its}
    if id not in known:
        raise ValueError(unknown("claim", id, list(known)))
    return known[id]
