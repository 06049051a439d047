"""Dropout: what is left out, when, and that nothing else changes by it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from scipy.stats import binom

from eltbench import accounting
from eltbench.accounting import NetworkSpec
from eltbench.backends.dropout import draw_dropped
from eltbench.backends.torch.network import Network
from eltbench.core.config import Architecture, Optimisation, Run
from eltbench.data.base import DataSpec
from eltbench.training.identity import run_id
from eltbench.training.loop import draw, fit, parts
from eltbench.training.model import load_model
from eltbench.training.record import WEIGHTS

SPEC = DataSpec("continuous", (4, 6), channels=2, classes=3)
SMALL = Architecture(unique_layers=2, max_loops=3, width=16, heads=2, dropout=0.25)
OPTIMISATION = Optimisation(steps=3, batch_size=8, learning_rate=1e-2, warmup_steps=1)
RUN = Run("elt", "diffusion", "digits", architecture=SMALL, optimisation=OPTIMISATION)
PLAIN = replace(RUN, architecture=replace(SMALL, dropout=0.0))
NOISY = np.random.default_rng(0).normal(size=(4, 8, 8, 1))


def network_of(depth="looped", block="dit", **options):
    """A network whose every parameter is away from its start, a call's arguments, and masks of dropout."""
    injected = depth == "equilibrium"
    architecture = replace(SMALL, max_loops=1 if depth == "unique" else 3, block=block, input_injection=injected)
    architecture = replace(architecture, **options)
    generator = torch.Generator().manual_seed(0)
    network = Network(NetworkSpec(architecture, depth, SPEC, timed=True), generator=generator)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.15 * torch.randn(parameter.shape, generator=generator)
    inputs = torch.randn(3, 4, 6, 2, generator=generator)
    call = inputs, torch.tensor([0, 1, 3]), None, torch.tensor([-5.0, 0.0, 5.0])
    return (
        network,
        call,
        torch.tensor(draw_dropped(NetworkSpec(architecture, depth, SPEC, True), 3, np.random.default_rng(1))),
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of trained runs: with dropout, again, with another seed, and without."""
    root = tmp_path_factory.mktemp("runs")
    for name, run in {"one": RUN, "again": RUN, "other": replace(RUN, seed=1), "plain": PLAIN}.items():
        fit(run, root / name)
    return root


# What is dropped


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_share_that_is_dropped_is_binomial(share):
    dropped = draw_dropped(
        NetworkSpec(replace(SMALL, dropout=share), "looped", SPEC, True), 64, np.random.default_rng(0)
    )
    assert dropped.shape == (64, 2, 2, 6, 16)
    for axis in range(1, 5):  # of every layer, branch, token and channel
        counts = np.moveaxis(dropped, axis, 0).reshape(dropped.shape[axis], -1).sum(axis=1)
        low, high = binom.interval(1 - 1e-6, dropped.size // dropped.shape[axis], share)
        assert ((low <= counts) & (counts <= high)).all()


def test_the_condition_of_a_bert_block_is_a_token_like_others():
    assert network_of(block="bert")[2].shape == (3, 2, 2, 7, 16)


def test_without_dropout_nothing_is_drawn():
    assert draw_dropped(NetworkSpec(Architecture(), "looped", SPEC, True), 64, np.random.default_rng(0)) is None
    assert draw(PLAIN, parts(PLAIN), 0)[0].dropped is None


def test_batches_and_exits_are_those_of_a_run_without_dropout():
    for step in range(3):
        (batch, exits), (plain, same) = (draw(run, parts(run), step) for run in (RUN, PLAIN))
        assert exits == same
        for field, expected in zip(batch[:-1], plain[:-1], strict=True):
            assert np.array_equal(field, expected)


def test_masks_differ_by_step_and_seed_but_not_by_trainer_or_backend():
    first, again = (draw(RUN, parts(RUN), 5)[0].dropped for _ in range(2))
    assert np.array_equal(first, again)
    rival = replace(RUN, trainer="no-ilsd", backend="jax")
    assert np.array_equal(first, draw(rival, parts(rival), 5)[0].dropped)
    other = replace(RUN, seed=1)
    for run, step in ((RUN, 6), (other, 5)):
        assert not np.array_equal(first, draw(run, parts(run), step)[0].dropped)


# What that does to a pass


@pytest.mark.parametrize("norm", ["pre", "sandwich"])
def test_a_branch_adds_what_is_kept_scaled_up_and_nothing_of_what_is_dropped(norm):
    network, call, dropped = network_of(block="bert", unique_layers=1, norm=norm)
    dropped[:, :, 1] = True  # no MLP
    with torch.no_grad():
        before, _ = network.embed(*call)
        block = network.blocks[0]
        added = block.after1(block.attention(block.norm1(before), None))
        (output,) = network(*call, (1,), ("state",), dropped)
    expected = before + torch.nan_to_num(added / 0.75).masked_fill(dropped[:, 0, 0], 0.0)
    assert torch.allclose(output.state, expected[:, 1:], rtol=0, atol=1e-6)


@pytest.mark.parametrize("block", ["dit", "bert"])
def test_a_pass_whose_every_addition_is_dropped_leaves_the_state_as_it_is(block):
    network, call, dropped = network_of(block=block)
    with torch.no_grad():
        before, _ = network.embed(*call)
        outputs = network(*call, (1, 3), ("state",), torch.ones_like(dropped))
    assert all(torch.equal(output.state, before[:, before.shape[1] - 6 :]) for output in outputs)


@pytest.mark.parametrize("branch", [0, 1])
@pytest.mark.parametrize("block", ["dit", "bert"])
def test_the_expected_addition_of_a_branch_is_that_without_dropout(block, branch):
    """Of either branch alone: what it adds is bent by no other."""
    network, call, _ = network_of(block=block, unique_layers=1)
    copies = 4000
    many = [None if field is None else field[:1].expand(copies, *field.shape[1:]) for field in call]
    dropped = draw_dropped(NetworkSpec(network.architecture, "looped", SPEC, True), copies, np.random.default_rng(2))
    dropped = torch.tensor(dropped)
    dropped[:, :, 1 - branch] = True
    without = torch.zeros_like(dropped[:1])
    without[:, :, 1 - branch] = True
    with torch.no_grad():
        before, conditioning = network.embed(*(None if field is None else field[:1] for field in call), without)
        bare = conditioning._replace(kept=conditioning.kept * 0.75)  # factors 1
        expected = network.loop(before, bare, 1)[:, network.prefix :]
        states = network(*many, (1,), ("state",), dropped)[0].state
    error = states.std(dim=0) / copies**0.5
    assert ((states.mean(dim=0) - expected[0]).abs() < 5.5 * error + 1e-5).all()
    assert (states.std(dim=0) > 0).any()


@pytest.mark.parametrize("block", ["dit", "bert"])
@pytest.mark.parametrize("depth", ["looped", "universal", "equilibrium"])
def test_each_exit_of_a_pass_with_dropout_equals_a_shallower_pass_with_the_same_masks(depth, block):
    network, call, dropped = network_of(depth, block)
    with torch.no_grad():
        together = network(*call, (1, 2, 5), dropped=dropped)
        plain = network(*call, (5,))
        for exit, output in zip((1, 2, 5), together, strict=True):
            (alone,) = network(*call, (exit,), dropped=dropped)
            assert torch.allclose(alone.prediction, output.prediction, rtol=0, atol=1e-6)
    assert not torch.allclose(plain[0].prediction, together[-1].prediction, rtol=0, atol=1e-3)


def test_a_pass_drops_the_same_in_every_loop():
    network, call, dropped = network_of()
    with torch.no_grad():
        state, conditioning = network.embed(*call, dropped)
        assert torch.equal(network.loop(state, conditioning, 1), network.loop(state, conditioning, 7))


def test_masks_for_a_network_without_dropout_are_refused():
    network, call, dropped = network_of()
    network.architecture = replace(network.architecture, dropout=0.0)
    with pytest.raises(ValueError, match=r"masks of dropout are given to a network whose architecture.dropout is 0"):
        network(*call, (1,), dropped=dropped)


# What that does to a run


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def test_training_with_dropout_is_reproducible_and_differs_by_seed_and_from_training_without(trained):
    assert losses(trained / "one") == losses(trained / "again")
    one, again = (load_file(trained / name / WEIGHTS) for name in ("one", "again"))
    assert all(np.array_equal(one[name], again[name]) for name in one)
    assert losses(trained / "one") != losses(trained / "other")
    assert losses(trained / "one")[1:] != losses(trained / "plain")[1:]


def test_a_checkpoint_holds_what_one_without_dropout_does(trained):
    one, plain = (load_file(trained / name / WEIGHTS) for name in ("one", "plain"))
    assert {name: array.shape for name, array in one.items()} == {name: array.shape for name, array in plain.items()}


def test_parameters_and_work_are_those_of_a_network_without_dropout():
    thinned, plain = SMALL, PLAIN.architecture
    for count in (accounting.parameters, accounting.weight_bytes):
        assert count(NetworkSpec(thinned, "looped", SPEC, True)) == count(NetworkSpec(plain, "looped", SPEC, True))
    for count in (accounting.macs, accounting.peak_bytes):
        assert count(NetworkSpec(thinned, "looped", SPEC, True), 3) == count(
            NetworkSpec(plain, "looped", SPEC, True), 3
        )


def test_a_run_at_dropout_zero_is_the_run_before_there_was_dropout():
    assert run_id(replace(RUN, architecture=replace(SMALL, dropout=0))) == run_id(PLAIN)
    assert run_id(RUN) != run_id(PLAIN)


# Monte-Carlo dropout


def test_a_prediction_leaves_nothing_out_unless_asked(trained):
    model = load_model(trained / "one")
    first, again = (model.predict(NOISY, log_snr=0.0, exits=(1, 3)) for _ in range(2))
    assert all(map(np.array_equal, first, again))


def test_passes_with_dropout_are_members_of_their_seed(trained):
    model = load_model(trained / "one")
    first, again, other = (
        model.predict(NOISY, log_snr=0.0, exits=(1, 3), dropout_passes=5, seed=seed) for seed in (0, 0, 1)
    )
    assert [members.shape for members in first] == [(5, 4, 8, 8, 1)] * 2
    assert all(map(np.array_equal, first, again))
    assert not np.array_equal(first[1], other[1])
    assert (first[1].std(axis=0) > 0).any(axis=(1, 2, 3)).all()  # members differ on every item
    (few,) = model.predict(NOISY[:2], log_snr=0.0, exits=(3,), dropout_passes=2)
    assert np.allclose(few, first[1][:2, :2], rtol=0, atol=1e-6)  # by pass and place, whatever comes beside


def test_passes_that_could_not_differ_are_refused(trained):
    with pytest.raises(ValueError, match="trained without dropout, so 3 passes would be the same one"):
        load_model(trained / "plain").predict(NOISY, log_snr=0.0, exits=(1,), dropout_passes=3)
    with pytest.raises(ValueError, match="dropout_passes must be 0 or more, a whole number, given -1"):
        load_model(trained / "one").predict(NOISY, log_snr=0.0, exits=(1,), dropout_passes=-1)
