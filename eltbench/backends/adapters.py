"""What the backends share of the per-loop adapters: the linear maps of a layer that each loop updates."""

from __future__ import annotations

from typing import NamedTuple

from eltbench.core.arrays import Array

LowRank = tuple[Array, Array]  # A (rank, inputs) and B (outputs, rank), for W + B·A


class Updates(NamedTuple):
    """The update of each linear map of a layer in one loop, as `NetworkSpec.maps`; None leaves the map as it is."""

    qkv: LowRank | None = None
    projection: LowRank | None = None
    expand: LowRank | None = None
    contract: LowRank | None = None


PLAIN = Updates()
