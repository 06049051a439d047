"""Adaptive computation time against a per-token reference written from Graves' formulas (arXiv 1603.08983)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eltbench.accounting import NetworkSpec
from eltbench.backends.torch.halting import Halting
from eltbench.backends.torch.network import Network
from eltbench.core.config import Architecture
from eltbench.data.base import DataSpec

CAP, WIDTH = 9, 8


def reference(states, probabilities, cap):
    """One token: its output and ponder at a cap, from states (t, D) and halting probabilities (t,) of loops 1 … t."""
    halts_at = next((t for t in range(1, cap + 1) if probabilities[:t].sum() >= 1 - 0.01), None)
    n = cap if halts_at is None else min(halts_at, cap)
    spent = probabilities[: n - 1].sum()
    weights = np.append(probabilities[: n - 1], 1 - spent)
    assert np.isclose(weights.sum(), 1)
    return weights @ states[:n], n + (1 - spent)


def halting_with(bias, seed=0):
    halting = Halting(WIDTH).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        halting.linear.weight.copy_(torch.randn(1, WIDTH, generator=generator, dtype=torch.float64))
        halting.linear.bias.fill_(bias)
    states = torch.randn(CAP, 6, 16, WIDTH, generator=generator, dtype=torch.float64)  # (loop, B, T, D)
    return halting, states


@pytest.mark.slow
@pytest.mark.parametrize("bias", [-4.0, -1.0, 1.0, 8.0])
def test_outputs_ponder_and_what_is_left_equal_the_reference_at_every_cap(bias):
    halting, states = halting_with(bias)
    logits = (states @ halting.linear.weight[0] + bias).detach().numpy()
    probabilities = 1 / (1 + np.exp(-logits))  # (loop, B, T)
    tally, ponders = halting.start(states[0]), []
    for cap in range(1, CAP + 1):
        if cap > 1:
            tally = halting.advance(tally, states[cap - 2])
        output, ponder = halting.output(tally, states[cap - 1]), halting.ponder(tally)
        left = 1 - probabilities[:cap].sum(axis=0)
        expected = np.where(np.cumsum(probabilities, axis=0)[:cap].max(axis=0) >= 1 - 0.01, 0, left)
        unhalted = halting.unhalted(halting.advance(tally, states[cap - 1])).detach().numpy()
        np.testing.assert_allclose(unhalted, expected, atol=1e-12)
        ponders.append(ponder)
        for item, token in np.ndindex(6, 16):
            expected = reference(states[:, item, token].numpy(), probabilities[:, item, token], cap)
            np.testing.assert_allclose(output[item, token].detach().numpy(), expected[0], rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(ponder[item, token].detach().numpy(), expected[1], rtol=1e-12)
    assert ponders[-1].max() - ponders[-1].min() > 1e-3 or bias == 8.0  # the cases differ


@pytest.mark.parametrize("bias", [-4.0, -1.0, 1.0, 8.0])
def test_weights_sum_to_one_at_every_cap(bias):
    """With all states alike the output is that state, whatever the probabilities."""
    halting, states = halting_with(bias)
    same = torch.ones_like(states[0])
    tally = halting.start(same)
    for cap in range(1, CAP + 1):
        if cap > 1:  # probabilities of one sequence of states, weights applied to another
            counted = halting.advance(tally._replace(accumulated=torch.zeros_like(same)), states[cap - 2])
            share = (counted.accumulated / states[cap - 2]).mean(-1, keepdim=True)
            tally = counted._replace(accumulated=tally.accumulated + share * same)
        torch.testing.assert_close(halting.output(tally, same), same, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("block", ["dit", "bert"])
def test_the_networks_exits_are_those_of_the_reference(block):
    spec = DataSpec("tokens", (3, 4), vocabulary=5, classes=3)
    architecture = Architecture(width=16, heads=2, block=block)
    generator = torch.Generator().manual_seed(0)
    network = Network(NetworkSpec(architecture, "universal", spec, timed=False), generator=generator).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    inputs, labels = torch.arange(24).reshape(2, 12) % 6, torch.tensor([0, 3])
    call = (inputs, labels, None, None)
    exits = tuple(range(1, CAP + 1))
    with torch.no_grad():
        states = torch.stack([output.state for output in network(*call, (1, 2, 3), ("state",))])
        logits = network.halting.linear(states)
        network.halting.linear.weight /= logits.std()
        network.halting.linear.bias.fill_(-logits.mean() / logits.std() - 1)  # so that halting differs among tokens
        outputs = network(*call, exits, ("prediction", "state", "ponder", "unhalted"))
        _, conditioning = network.embed(*call)
    states = torch.stack([output.state for output in outputs]).numpy()  # (loop, B, T, D)
    weight, bias = network.halting.linear.weight[0].detach().numpy(), network.halting.linear.bias.item()
    probabilities = 1 / (1 + np.exp(-(states @ weight + bias)))
    for cap, output in zip(exits, outputs, strict=True):
        cases = [[reference(states[:, b, t], probabilities[:, b, t], cap) for t in range(12)] for b in range(2)]
        mixed = torch.tensor(np.array([[case[0] for case in row] for row in cases]))
        padded = torch.cat([torch.zeros(2, network.prefix, 16, dtype=torch.float64), mixed], dim=1)
        with torch.no_grad():
            torch.testing.assert_close(output.prediction, network.read(padded, conditioning))
        ponder = torch.tensor([[case[1] for case in row] for row in cases])
        torch.testing.assert_close(output.ponder, ponder)
        spent = torch.as_tensor(probabilities[:cap].sum(axis=0))
        torch.testing.assert_close(output.unhalted, torch.where(spent >= 1 - 0.01, 0, 1 - spent))
    assert outputs[-1].ponder.min() < 4 < outputs[-1].ponder.max()  # some tokens halt early, some late


def test_ponder_has_a_gradient_that_asks_for_higher_probabilities():
    halting, states = halting_with(-1.0)
    tally = halting.start(states[0])
    for state in states[:2]:
        tally = halting.advance(tally, state)
    halting.ponder(tally).mean().backward()
    assert halting.linear.bias.grad.item() < 0


def test_halting_starts_at_a_bias_of_one():
    spec = DataSpec("tokens", (2, 2), vocabulary=5)
    network = Network(NetworkSpec(Architecture(width=16, heads=2), "universal", spec, timed=False))
    assert network.halting.linear.bias.item() == 1
