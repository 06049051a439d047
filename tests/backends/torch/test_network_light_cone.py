"""With an attention radius ρ nothing travels farther than N·L·ρ tokens in L loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eltbench.accounting import NetworkSpec
from eltbench.backends.torch.network import Network
from eltbench.core.config import Architecture
from eltbench.data.base import DataSpec

LAYERS, EXITS = 2, (1, 2, 3)
WORLDS = {
    "relay": DataSpec("tokens", (2, 15), vocabulary=4, context_vocabulary=6),
    "labelled tokens": DataSpec("tokens", (3, 15), vocabulary=7, classes=4),
    "patches": DataSpec("continuous", (4, 30), channels=2, classes=4),
}


@pytest.mark.slow
@pytest.mark.parametrize("radius", [0, 1, 2])
@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("block", ["dit", "bert"])
@pytest.mark.parametrize("depth", ["looped", "universal", "equilibrium"])
def test_a_change_reaches_exactly_as_far_as_the_light_cone(depth, block, world, radius):
    spec = WORLDS[world]
    timed = spec.kind == "continuous"
    architecture = Architecture(
        unique_layers=LAYERS,
        width=16,
        heads=2,
        block=block,
        attention_radius=radius,
        input_injection=True,
        loop_adapter_rank=2,
    )
    generator = torch.Generator().manual_seed(3)
    network = Network(NetworkSpec(architecture, depth, spec, timed=timed), generator=generator).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
        if network.halting is not None:
            network.halting.linear.weight.mul_(0.05)
            network.halting.linear.bias.fill_(-3)  # no token halts within these exits
    rows, columns = network.spec.grid
    labels, log_snr = torch.tensor([1]), torch.zeros(1, dtype=torch.float64) if timed else None
    context = torch.arange(rows * columns).unsqueeze(0) % 6 if spec.context_vocabulary else None
    if timed:
        inputs = torch.randn(1, *spec.grid, spec.channels, generator=generator, dtype=torch.float64)
        changed = inputs.clone()
        changed[0, 0, 0, 0] += 1  # within the patch at row 0, column 0
    else:
        inputs = torch.randint(spec.vocabulary, (1, spec.tokens), generator=generator)
        changed = inputs.clone()
        changed[0, 0] = spec.vocabulary  # the token at row 0, column 0 becomes the mask
    with torch.no_grad():
        before = network(inputs, labels, context, log_snr, EXITS)
        after = network(changed, labels, context, log_snr, EXITS)

    places = np.indices((rows, columns)).reshape(2, -1)
    distance = places.max(axis=0)  # Chebyshev, from row 0 and column 0
    for exit, first, second in zip(EXITS, before, after, strict=True):
        differs = (first.prediction != second.prediction).numpy()
        if timed:  # a patch differs where any of its pixels does
            differs = differs.reshape(rows, 2, columns, 2, 2).any(axis=(1, 3, 4)).reshape(-1)
        else:
            differs = differs.any(axis=-1).reshape(-1)
        np.testing.assert_array_equal(differs, distance <= LAYERS * exit * radius)
