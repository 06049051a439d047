"""Studies: one question asked of many runs. `python -m eltbench.studies.NAME` is `eltbench study NAME`."""

from eltbench.registry import Registry
from eltbench.studies.base import Measured, Study

registry: Registry[Study] = Registry(
    "study",
    "studies",
    {
        "audit": "eltbench.studies.audit:Audit",
        "convergence": "eltbench.studies.convergence:Convergence",
        "depth_grid": "eltbench.studies.depth_grid:DepthGrid",
        "disagreement": "eltbench.studies.disagreement:Disagreement",
        "extrapolation": "eltbench.studies.extrapolation:Extrapolation",
        "throughput": "eltbench.studies.throughput:Throughput",
    },
)
register, get, create, names = registry.register, registry.get, registry.create, registry.names

__all__ = ["Measured", "Study", "create", "get", "names", "register", "registry"]
