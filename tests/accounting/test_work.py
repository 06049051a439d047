"""The FLOPs of samples and training steps equal what torch's counter counts over the whole of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_architectures import CONTINUOUS, TOKENS, Call, calls, prepared
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from eltbench import accounting, data, tasks, trainers
from eltbench.accounting import NetworkSpec
from eltbench.backends.torch.network import Network
from eltbench.backends.torch.ops import TorchOps
from eltbench.core.config import Architecture

BATCH = 2


def counted(call: Call, learns: tuple[int, ...]) -> tuple[int, int]:
    """FLOPs forward and backward per item, the latter from `learns` alone, with attention that recomputes nothing."""
    predict, _ = prepared(call, BATCH, ("prediction", "halting"))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        outputs = predict()
        forward = counter.get_total_flops()
        read = zip(call.exits, outputs, strict=True)
        learned = [field.sum() for at, (*fields,) in read if at in learns for field in fields if field is not None]
        torch.stack(learned).sum().backward()
    return forward // BATCH, (counter.get_total_flops() - forward) // BATCH


@pytest.mark.slow
@settings(max_examples=25, derandomize=True)
@given(calls())
def test_a_training_step_equals_torchs_counter_over_forward_and_backward(call):
    closed = accounting.step_flops(call.network, call.exits[-1], len(call.exits))
    assert (closed["forward"], closed["backward"]) == counted(call, call.exits)


@pytest.mark.slow
@settings(max_examples=25, derandomize=True)
@given(calls(), st.data())
def test_a_backward_pass_from_some_of_the_exits_equals_torchs_counter(call, data):
    learns = tuple(sorted(data.draw(st.sets(st.sampled_from(call.exits), min_size=1))))
    closed = accounting.step_flops(call.network, call.exits[-1], len(call.exits), learns=learns)
    assert (closed["forward"], closed["backward"]) == counted(call, learns)


@pytest.mark.parametrize("depth", ["looped", "unique", "universal"])
@pytest.mark.parametrize("block", ["dit", "bert"])
def test_a_backward_pass_costs_twice_the_forward_pass_but_for_constant_inputs(depth, block):
    architecture = Architecture(width=64, max_loops=1, block=block)
    loops = 1 if depth == "unique" else 4
    tokens = accounting.step_flops(NetworkSpec(architecture, depth, TOKENS, False), loops)
    assert tokens["backward"] == 2 * tokens["forward"]
    patches = accounting.step_flops(NetworkSpec(architecture, depth, CONTINUOUS, True), loops)
    constant = accounting.macs_by_part(NetworkSpec(architecture, depth, CONTINUOUS, True), loops)["embedding"] + 64**2
    assert 2 * patches["forward"] - patches["backward"] == 2 * constant


def test_the_backward_pass_of_a_fixed_point_costs_the_same_after_any_number_of_loops():
    architecture = Architecture(width=64, max_loops=1, block="bert", input_injection=True)
    few, many = (
        accounting.step_flops(NetworkSpec(architecture, "equilibrium", TOKENS, False), loops) for loops in (2, 20)
    )
    assert few["backward"] == many["backward"]
    loops = [accounting.flops(NetworkSpec(architecture, "equilibrium", TOKENS, False), each) for each in (2, 20)]
    assert many["forward"] - few["forward"] == loops[1] - loops[0]


def test_ilsd_adds_one_more_head_to_a_step():
    """Arithmetic by hand: 12 tokens, width 64, 11 codes, three products of 2 FLOPs a MAC."""
    architecture = Architecture(width=64, max_loops=4, block="bert")
    rng = np.random.default_rng(0)
    both = []
    for name in ("elt", "no-ilsd"):
        exits = trainers.create(name).exits(architecture, rng)
        both.append(
            sum(
                accounting.step_flops(
                    NetworkSpec(architecture, "looped", TOKENS, False), exits[-1], len(exits)
                ).values()
            )
        )
    assert both[0] - both[1] == 3 * 2 * 12 * 64 * 11


@pytest.mark.parametrize(("guidance_scale", "calls_a_step"), [(1.0, 1), (3.0, 2), (0.0, 2)])
@pytest.mark.parametrize("task", ["diffusion", "masked"])
def test_a_sample_costs_what_its_network_calls_cost(task, guidance_scale, calls_a_step):
    made = tasks.create(task)
    spec = data.create("digits" if task == "diffusion" else "digits-codes").spec
    architecture, steps, loops = Architecture(width=8, heads=2, max_loops=2), 3, 2
    network = Network(NetworkSpec(architecture, "looped", spec, timed=made.timed))

    def predict(inputs, labels, log_snr, context, loops):
        (output,) = network(inputs, labels, context, log_snr, (loops,))
        return output.prediction

    settings = made.sampling(steps=steps, guidance_scale=guidance_scale)
    labels, rng = np.zeros(BATCH, np.int32), np.random.default_rng(0)
    # the plain attention kernel, for the counter of torch 2.6 lacks the fused one of processors
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        for _ in made.sample(predict, spec, labels, loops, rng, TorchOps(), settings):
            pass
    closed = accounting.sample_flops(
        NetworkSpec(architecture, "looped", spec, made.timed), loops, steps, guidance_scale
    )
    assert BATCH * closed == counter.get_total_flops()
    assert closed == steps * calls_a_step * accounting.flops(
        NetworkSpec(architecture, "looped", spec, made.timed), loops
    )


def test_a_sample_without_steps_is_refused():
    with pytest.raises(ValueError, match="steps must be at least 1, given 0"):
        accounting.sample_flops(NetworkSpec(Architecture(), "looped", CONTINUOUS, True), loops=1, steps=0)
    with pytest.raises(ValueError, match="exits must be between 1 and the 2 loops, given 3"):
        accounting.step_flops(NetworkSpec(Architecture(), "looped", CONTINUOUS, True), loops=2, exits=3)
    for learns in ((), (3,), (1, 2)):
        with pytest.raises(ValueError, match=r"learns must be 1 to 1 of the exits up to loop 2, .* given \["):
            accounting.step_flops(NetworkSpec(Architecture(), "looped", CONTINUOUS, True), loops=2, learns=learns)
