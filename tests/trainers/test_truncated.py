"""Gradients through the last loops alone: as a statement by hand has them, and progressive loss as its paper says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from random_architectures import CONTINUOUS, TOKENS
from scipy import stats
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from two_backends import small_run

from eltbench import accounting, trainers
from eltbench.accounting import NetworkSpec
from eltbench.backends.torch.network import Network
from eltbench.core.config import Architecture
from eltbench.core.streams import stream
from eltbench.tasks.base import ExitOutput
from eltbench.trainers.exits import Exit, Pass, passes
from eltbench.training.flops import item_flops
from eltbench.training.loop import build_engine, draw, parts

FREE = {"gradient_clip": 1e9}


def run_of(trainer: str, task="masked", **architecture):
    options = {name: architecture.pop(name) for name in ("alpha", "gradient_loops") if name in architecture}
    shape = {"block": "bert" if task == "masked" else "dit", "max_loops": 5, **architecture}
    return replace(small_run(trainer, task, optimisation=FREE, **shape), trainer_options=tuple(options.items()))


def by_hand(network: Network, batch, loops: int, since: int):
    """The prediction after `loops` loops, of which the first `since` were run without a gradient."""
    with torch.set_grad_enabled(since == 0):
        state, conditioning = network.embed(*batch.given)
        for index in range(1, since + 1):
            state = network.loop(state, conditioning, index)
    _, conditioning = network.embed(*batch.given)
    for index in range(since + 1, loops + 1):
        state = network.loop(state, conditioning, index)
    return ExitOutput(network.read(state, conditioning))


def gradients(network: Network) -> dict[str, torch.Tensor]:
    return {
        name: torch.zeros_like(each) if each.grad is None else each.grad.clone()
        for name, each in network.named_parameters()
    }


@pytest.mark.parametrize("task", ["masked", "diffusion"])
@pytest.mark.parametrize("injection", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_progressive_loss_and_its_gradient_are_those_of_the_paper(task, injection, alpha):
    run = run_of("progressive", task, alpha=alpha, input_injection=injection)
    made = parts(run)
    engine = build_engine(run, made)
    with torch.no_grad():  # away from gates and heads of zero
        for weight in engine.network.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    batch, _ = draw(run, made, 0)
    exits = {0.0: (5,), 0.3: (Exit(4, 2), 5), 1.0: (Exit(4, 2),)}[alpha]

    uploaded = engine.upload(batch)
    partial, whole = (
        made.task.loss(by_hand(engine.network, uploaded, *at), uploaded, engine.ops) for at in ((4, 2), (5, 0))
    )
    expected = (1 - alpha) * whole + alpha * partial
    engine.network.zero_grad()
    expected.backward()
    wanted = gradients(engine.network)

    values = engine.step(batch, exits, 0.5, 0.0)
    assert float(values["loss"]) == pytest.approx(expected.item(), rel=1e-5)
    largest = max(float(slope.abs().max()) for slope in wanted.values())
    for name, slope in gradients(engine.network).items():
        assert (slope - wanted[name]).abs().max() < 1e-5 * largest, name


def test_start_and_exit_are_drawn_as_the_paper_says():
    """n uniform over 0 … m − 1, then k uniform over 1 … m − n."""
    deepest, draws = 4, 8000
    trainer, counts = trainers.create("progressive"), np.zeros((deepest, deepest + 1))
    for step in range(draws):
        partial, whole = trainer.exits(Architecture(max_loops=deepest), stream("relay", 0, "exits", step))
        assert whole == deepest
        counts[partial.since, partial - partial.since] += 1
    expected = np.array([[(1 / deepest / (deepest - n)) * (1 <= k <= deepest - n) for k in range(5)] for n in range(4)])
    assert (counts[expected == 0] == 0).all()
    assert stats.chisquare(counts[expected > 0], draws * expected[expected > 0]).pvalue > 0.001


@pytest.mark.parametrize("loops", [1, 2, 8])
def test_random_loops_carry_a_gradient_through_their_last_loops_alone(loops):
    run = run_of("random-loops", gradient_loops=loops)
    made = parts(run)
    engine = build_engine(run, made)
    for step in range(4):
        (exit_,) = made.trainer.exits(run.architecture, stream("relay", 0, "exits", step))
        assert exit_.since == max(0, exit_ - loops)
        batch, _ = draw(run, made, step)
        uploaded = engine.upload(batch)
        loss = made.task.loss(by_hand(engine.network, uploaded, int(exit_), exit_.since), uploaded, engine.ops)
        engine.network.zero_grad()
        loss.backward()
        wanted = gradients(engine.network)
        engine.step(batch, (exit_,), 0.5, 0.0)
        for name, slope in gradients(engine.network).items():
            assert torch.allclose(slope, wanted[name], rtol=1e-4, atol=1e-7), name


def test_loops_are_drawn_from_huginns_distribution_cut_at_the_most():
    """The law by quadrature over τ: Poisson of rate exp(τ), τ normal of deviation 1/2 and E exp(τ) = 3."""
    architecture, draws = Architecture(min_loops=2, max_loops=8), 8000
    trainer = trainers.create("random-loops", distribution="poisson-log-normal")
    drawn = [trainer.exits(architecture, stream("relay", 0, "exits", step))[0] for step in range(draws)]
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    rates = np.exp(np.log(3) - 1 / 8 + nodes / 2)
    law = (stats.poisson.pmf(np.arange(6)[:, None], rates) * weights / weights.sum()).sum(axis=1)
    expected = draws * np.append(law, 1 - law.sum())
    assert stats.chisquare(np.bincount(drawn, minlength=9)[2:], expected).pvalue > 0.001
    (only,) = trainer.exits(Architecture(min_loops=3, max_loops=3), stream("relay", 0, "exits", 0))
    assert only == 3


@pytest.mark.slow
@pytest.mark.parametrize("since", [1, 3])
@pytest.mark.parametrize("injection", [False, True])
@pytest.mark.parametrize(
    ("block", "data", "timed", "more"),
    [
        ("dit", CONTINUOUS, True, {}),
        ("dit", CONTINUOUS, True, {"loop_conditioning": True, "loop_adapter_rank": 2}),
        ("bert", TOKENS, False, {}),
        ("bert", TOKENS, False, {"norm": "post", "loop_adapter_rank": 3}),
        ("bert", CONTINUOUS, True, {"norm": "sandwich"}),
        ("dit", CONTINUOUS, True, {"prelude": 2, "coda": 1, "positions": "rotary"}),
        ("bert", TOKENS, False, {"norm": "post", "prelude": 1, "coda": 1}),
        ("bert", TOKENS, True, {"norm": "post", "recall": "inside"}),
    ],
)
def test_the_closed_form_counts_a_truncated_backward_pass(block, data, timed, more, injection, since):
    injection = injection or "recall" in more
    architecture = Architecture(width=32, heads=2, max_loops=4, block=block, input_injection=injection, **more)
    spec = NetworkSpec(architecture, "looped", data, timed)
    network, items = Network(spec), 2
    shape = (items, *data.grid, data.channels) if data.kind == "continuous" else (items, data.tokens)
    inputs = torch.randn(shape) if data.kind == "continuous" else torch.zeros(shape, dtype=torch.long)
    context = torch.zeros((items, data.tokens), dtype=torch.long) if data.context_vocabulary else None
    given = inputs, torch.zeros(items, dtype=torch.long), context, torch.zeros(items) if timed else None
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        (output,) = network(*given, (4,), since=since)
        forward = counter.get_total_flops()
        output.prediction.sum().backward()
    closed = accounting.step_flops(spec, 4, since=since)
    assert (closed["forward"], closed["backward"]) == (
        forward // items,
        (counter.get_total_flops() - forward) // items,
    )


def test_a_step_costs_the_sum_of_its_passes():
    run = run_of("progressive")
    made = parts(run)
    (found,) = item_flops(run, made, [0])
    partial, _ = made.trainer.exits(run.architecture, stream(run.dataset, run.seed, "exits", 0))
    each = (
        accounting.step_flops(made.network, int(partial), since=partial.since),
        accounting.step_flops(made.network, 5),
    )
    assert found == sum(sum(its.values()) for its in each)


def test_an_exit_of_its_own_beginning_is_a_pass_and_plain_exits_share_one():
    assert passes((1, 3)) == [Pass((1, 3), None)]
    assert passes((Exit(4, 2), 5, 6)) == [Pass((4,), 2), Pass((5, 6), None)]
    assert passes((Exit(5, 0), 5)) == [Pass((5,), 0), Pass((5,), None)]  # the same exit, read twice
    with pytest.raises(ValueError, match="since one of loops 0 to 2, not 3"):
        Exit(3, 3)


def test_every_draw_of_progressive_loss_can_be_trained():
    run = run_of("progressive", max_loops=2)
    made, engine = parts(run), build_engine(run)
    drawn = {(int(exits[0]), exits[0].since) for _, exits in (draw(run, made, step) for step in range(40))}
    assert drawn == {(1, 0), (2, 0), (2, 1)}
    batch, _ = draw(run, made, 0)
    for loops, since in sorted(drawn):
        values = engine.step(batch, (Exit(loops, since), 2), 0.0, 1e-3)
        assert np.isfinite(float(values["loss"]))


def test_what_no_loss_can_be_made_of_is_refused():
    with pytest.raises(ValueError, match=r"alpha must be in \[0, 1\], given 1.5"):
        trainers.create("progressive", alpha=1.5)
    with pytest.raises(ValueError, match="gradient_loops must be 0 or more, given -1"):
        trainers.create("random-loops", gradient_loops=-1)
    with pytest.raises(ValueError, match="poisson-log-normal"):
        trainers.create("random-loops", distribution="poisson")
