"""The tiny recursive model as its paper states it: two states, one recursion with a gradient, a judged answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from two_backends import small_run

from eltbench import trainers
from eltbench.backends.torch.network import Network
from eltbench.core.config import Architecture
from eltbench.core.recursion import Recursion
from eltbench.evaluation.trajectory import trajectory
from eltbench.training.loop import build_engine, draw, parts

PUZZLES = (("size", 4), ("puzzles", 32), ("hardest", 1), ("heldout_items", 8))


def run_of(latent_steps=2, recursions=3, **options):
    run = small_run("trm", "masked", block="bert", optimisation={"gradient_clip": 1e9}, **options)
    how = (("latent_steps", latent_steps), ("recursions", recursions))
    return replace(run, dataset="sudoku", dataset_options=PUZZLES, trainer_options=how)


def engine_of(run):
    """An engine whose weights are all away from their start, some constant, and the batch of its first step."""
    made, generator = parts(run), torch.Generator().manual_seed(1)
    engine = build_engine(run, made)
    with torch.no_grad():
        for weight in (*engine.network.parameters(), *engine.average.module.parameters()):
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return made, engine, draw(run, made, 0)


def loss_by_hand(network, batch, n, T, loops):
    """The paper's pseudocode on the layers and the head of a network, with torch's own losses."""
    embedded, conditioning = Network.embed(network, *batch.given)
    x = embedded if conditioning.injected is None else conditioning.injected
    conditioning = conditioning._replace(injected=None)

    def net(state):
        return Network.loop(network, state, conditioning, 1)

    y, z = (network.first[place : place + 16].expand_as(x) for place in (0, 16))
    hidden = batch.weight > 0
    answers, halting = [], []
    for _ in range(loops):
        y, z = y.detach(), z.detach()
        for recursion in range(T):
            with torch.set_grad_enabled(recursion == T - 1):
                for _ in range(n):
                    z = net(z + y + x)
                y = net(y + z)
        logits = Network.read(network, y, conditioning)
        right = torch.stack([bool((row.argmax(-1) == of)[at].all()) * torch.ones(()) for row, of, at in
                             zip(logits, batch.target, hidden, strict=True)])  # fmt: skip
        answers.append(F.cross_entropy(logits[hidden], batch.target[hidden].long()))
        judged = network.judge(y[:, network.prefix :].mean(1))[:, 0]
        halting.append(F.binary_cross_entropy_with_logits(judged, right))
    return sum(answers) / loops + 0.5 * sum(halting) / loops


@pytest.mark.parametrize("options", [{}, {"norm": "post", "unique_layers": 2}, {"input_injection": True}])
@pytest.mark.parametrize(("n", "T"), [(2, 3), (1, 1)])
def test_loss_and_gradient_are_those_of_the_pseudocode(n, T, options):
    run = run_of(n, T, **options)
    _, engine, (batch, exits) = engine_of(run)
    assert exits == (1, 2, 3)
    expected = loss_by_hand(engine.network, engine.upload(batch), n, T, 3)
    engine.network.zero_grad()
    expected.backward()
    wanted = {name: weight.grad.clone() for name, weight in engine.network.named_parameters()}
    values = engine.step(batch, exits, 0.5, 0.0)
    assert float(values["loss"]) == pytest.approx(expected.item(), rel=1e-5)
    largest = max(float(slope.abs().max()) for slope in wanted.values())
    for name, weight in engine.network.named_parameters():
        assert (weight.grad - wanted[name]).abs().max() < 1e-5 * largest, name


def test_an_item_is_right_when_all_of_its_hidden_tokens_are():
    made, engine, (batch, _) = engine_of(run_of())
    logits = F.one_hot(torch.tensor(batch.target).long(), 4).float()  # all right
    hidden = [np.flatnonzero(row) for row in batch.weight]
    logits[1, hidden[1][0]] = logits[1, hidden[1][0]].roll(1)  # one wrong where it counts
    given = np.flatnonzero(batch.weight[2] == 0)[0]
    logits[2, given] = logits[2, given].roll(1)  # and one where it does not
    output = engine.network(*engine.upload(batch).given, (1,))[0]._replace(prediction=logits)
    assert made.task.right(output, engine.upload(batch)).tolist() == [True, False, True, True]


@pytest.mark.parametrize("block", ["bert", "dit"])
def test_each_exit_equals_a_shallower_run_and_the_recurrence(block):
    run = replace(run_of(), architecture=replace(run_of().architecture, block=block))
    _, engine, (batch, _) = engine_of(run)
    batch, fields = engine.upload(batch), ("prediction", "state", "halting")
    states = trajectory(recurrence := engine.recurrence(batch), 5)
    for exit, output in zip((1, 3, 5), engine.predict(batch, (1, 3, 5), fields), strict=True):
        (alone,) = engine.predict(batch, (exit,), fields)
        for name in fields:
            assert torch.equal(getattr(output, name), getattr(alone, name))
        assert output.state.shape == (4, 16, 32)
        assert (output.halting == output.halting[:, :1]).all()
        assert torch.equal(recurrence.read(states[exit]), output.prediction)
        assert torch.equal(states[exit][:, -16:], output.state)


def test_every_parameter_has_the_gradient_in_bfloat16_that_it_has_in_float32():
    """The recursions without a gradient run first; autocast keeps nothing of them for the last."""
    run = run_of(norm="post")
    _, exact, (batch, exits) = engine_of(run)
    _, rounded, _ = engine_of(replace(run, precision="bf16"))
    slopes = []
    for engine in (exact, rounded):
        engine.step(batch, exits, 0.0, 0.0)
        slopes.append(torch.cat([weight.grad.flatten() for weight in engine.network.parameters()]))
    assert (slopes[1] - slopes[0]).norm() < 0.1 * slopes[0].norm()


def test_at_first_no_answer_is_taken_to_be_right():
    run = run_of()
    made, engine = parts(run), build_engine(run)
    batch = engine.upload(draw(run, made, 0)[0])
    (output,) = engine.predict(batch, (3,), ("halting",))
    assert (output.halting == -5).all()
    assert trainers.create("trm").recursion == Recursion(6, 3)
    assert engine.network.spec.recursion == Recursion(2, 3)


def test_what_cannot_be_recursed_or_judged_is_refused():
    with pytest.raises(
        ValueError, match=r"trainer 'trm' has a loss for tokens alone, and task 'diffusion' works on cont"
    ):
        parts(small_run("trm", "diffusion"))
    for name, given in (("loop_embedding", True), ("loop_conditioning", True), ("loop_adapter_rank", 2)):
        with pytest.raises(ValueError, match=f"one and the same network throughout: expected {name} = .*, given"):
            trainers.create("trm").check(Architecture(**{name: given}))
    with pytest.raises(ValueError, match="latent_steps must be a whole number of at least 1, given 0"):
        trainers.create("trm", latent_steps=0)
    with pytest.raises(ValueError, match="halting_weight must be 0 or more, given -1"):
        trainers.create("trm", halting_weight=-1.0)
