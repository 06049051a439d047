"""The closed form counts what a traced JAX network computes, over random architectures."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxpr_macs import macs
from random_architectures import calls

from eltbench import accounting
from eltbench.backends.jax.recursive import network_of
from eltbench.tasks.base import Batch


@pytest.mark.slow
@settings(max_examples=25)
@given(calls(), st.integers(1, 3))
def test_macs_equal_those_of_the_traced_program(call, batch):
    spec = call.spec
    network = network_of(call.network)
    continuous = spec.kind == "continuous"
    inputs = np.zeros((batch, *((*spec.grid, spec.channels) if continuous else (spec.tokens,))))
    inputs = inputs.astype(np.float32 if continuous else np.int32)
    context = np.zeros((batch, spec.tokens), np.int32) if spec.context_vocabulary else None
    log_snr = np.zeros(batch, np.float32) if call.timed else None
    items = Batch(inputs, np.zeros(batch, np.int32), context, log_snr, None, None)
    exits = np.array(call.exits, np.int32)
    traced = jax.make_jaxpr(lambda network: network.infer(items, exits, ("prediction",)))(network)
    expected = accounting.macs(call.network, call.exits[-1], len(call.exits))
    if call.depth == "universal":  # the loop's body ends with the halting, also in the last loop, which needs none
        expected += call.network.length * call.architecture.width
    assert macs(traced.jaxpr, call.exits[-1]) == batch * expected
    held = sum(leaf.size for leaf in jax.tree.leaves(network))
    assert held == sum(accounting.parameters(call.network).values())
