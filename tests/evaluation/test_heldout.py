"""Held-out losses: all exits from one pass, alike for every model, and on relay never beyond the theorem."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from eltbench.core.config import Architecture, Optimisation, Run
from eltbench.core.streams import stream
from eltbench.data.relay import reachable
from eltbench.evaluation import heldout
from eltbench.evaluation.heldout import evaluate
from eltbench.tasks.base import ExitOutput
from eltbench.training import loop as training
from eltbench.training.model import Model

SHAPE = {"unique_layers": 1, "max_loops": 3, "width": 8, "heads": 2}
WORLDS = {
    "diffusion": ("diffusion", "digits", {}),
    "masked": ("masked", "digits-codes", {"block": "bert"}),
    "relay": ("masked", "relay", {"block": "bert", "attention_radius": 1}),
}


def untrained(world="diffusion", trainer="elt", seed=0, spread=0.3, dataset_options=(), **shape):
    """A model whose weights are random throughout, so that no exit is like another."""
    task, dataset, options = WORLDS[world]
    architecture = Architecture(**{**SHAPE, **options, **shape})
    run = Run(trainer, task, dataset, seed, architecture, dataset_options=tuple(dataset_options))
    made = training.parts(run)
    engine = training.build_engine(run, made)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in engine.average.module.parameters():
            weight.add_(spread * torch.randn(weight.shape, generator=generator))
    return Model(run, engine, made)


def recorded(model, monkeypatch):
    """The host copies of what every network call of this model is given."""
    calls, predict = [], model.engine.predict

    def recording(batch, exits, *fields):
        calls.append((model.engine.numpy(batch.inputs), exits))
        return predict(batch, exits, *fields)

    monkeypatch.setattr(model.engine, "predict", recording)
    return calls


# One pass


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS)
def test_all_exits_from_one_pass_are_those_of_a_pass_each(world):
    model, exits = untrained(world), (1, 2, 5, 9)
    together = evaluate(model, exits, draws=2)
    for place, exit in enumerate(exits):
        alone = evaluate(model, [exit], draws=2)
        assert np.allclose(alone.errors[0], together.errors[place], rtol=1e-5, atol=1e-6)
        assert alone.losses[0] == pytest.approx(together.losses[place], rel=1e-5)
    assert together.exits == exits
    assert len(set(together.losses.round(6))) == 4


@pytest.mark.parametrize(("world", "draws", "calls"), [("diffusion", 3, 3), ("masked", 2, 2), ("relay", 3, 1)])
def test_there_is_one_network_call_a_batch_whatever_the_number_of_exits(monkeypatch, world, draws, calls):
    for exits in ((2,), (1, 2, 3, 4, 5, 6)):
        model = untrained(world)
        made = recorded(model, monkeypatch)
        evaluate(model, exits, draws)
        assert [given for _, given in made] == [exits] * calls


@pytest.mark.parametrize("world", ["diffusion", "relay"])
def test_the_size_of_a_network_call_changes_no_result(monkeypatch, world):
    model = untrained(world)
    whole = evaluate(model, (1, 3), draws=2)
    monkeypatch.setattr(heldout, "BATCH", 100)
    calls = recorded(model, monkeypatch)
    pieces = evaluate(model, (1, 3), draws=2)
    assert max(len(inputs) for inputs, _ in calls) == 100
    assert np.allclose(pieces.errors, whole.errors, rtol=1e-4, atol=1e-6)
    assert np.array_equal(pieces.weights, whole.weights)
    if world == "relay":
        assert np.allclose(pieces.correct, whole.correct, atol=0.003)


def test_impossible_exits_are_refused():
    with pytest.raises(ValueError, match="strictly increasing"):
        evaluate(untrained(), (2, 1), draws=1)
    model = untrained(trainer="unique-depth", unique_layers=2, max_loops=1)
    assert evaluate(model, [1], draws=1).errors.shape == (1, 1, 357)
    with pytest.raises(ValueError, match="ends at exit 1"):
        evaluate(model, (1, 2), draws=1)


# The same corruption for every model


@pytest.mark.parametrize("world", WORLDS)
def test_two_models_are_asked_about_the_same_corruptions_again_and_again(monkeypatch, world):
    first, again, other = untrained(world, seed=0), untrained(world, seed=0), untrained(world, "no-ilsd", seed=5)
    asked = []
    for model in (first, again, other):
        calls = recorded(model, monkeypatch)
        losses = evaluate(model, (1, 2), draws=2).losses
        asked.append((np.concatenate([inputs for inputs, _ in calls]), losses))
    for inputs, _ in asked[1:]:
        assert np.array_equal(inputs, asked[0][0])
    assert np.array_equal(asked[0][1], asked[1][1])
    assert not np.allclose(asked[0][1], asked[2][1], rtol=1e-3)


# An independent computation


def batches_of(model, draws):
    rng = stream(model.run.dataset, 0, "heldout")
    return model.task.heldout(model.dataset.heldout(), model.spec, rng, draws)


def test_diffusion_losses_are_the_weighted_squared_errors_item_by_item():
    model, bias = untrained("diffusion"), -3.0
    measured = evaluate(model, (2, 4), draws=2)
    angles = [math.atan(math.exp(-limit / 2)) for limit in (15, -15)]  # of the log-SNR ±15
    for draw, batch in enumerate(batches_of(model, 2)):
        for item in range(0, 357, 40):
            log_snr = float(batch.log_snr[item])
            place = math.atan(math.exp(-log_snr / 2))
            slope = 4 * (angles[1] - angles[0]) / math.sin(2 * place)  # -dλ/dt
            weight = slope * math.exp(bias) / (1 + math.exp(bias - log_snr))
            inputs = batch.inputs[item : item + 1]
            clean = model.dataset.heldout().values[item]
            for place, prediction in enumerate(
                model.predict(inputs, batch.labels[item : item + 1], log_snr, exits=(2, 4))
            ):
                expected = weight * np.mean((prediction[0].astype(float) - clean) ** 2)
                assert measured.errors[place, draw, item] == pytest.approx(expected, rel=2e-4)
    assert np.array_equal(measured.weights, np.ones((2, 357)))
    assert measured.losses == pytest.approx(measured.errors.mean(axis=(1, 2)))


def test_masked_losses_are_the_cross_entropy_over_masked_positions_item_by_item():
    model = untrained("masked")
    measured = evaluate(model, (2, 4), draws=2)
    total, counted = np.zeros(2), 0
    for draw, batch in enumerate(batches_of(model, 2)):
        clean = model.dataset.heldout().values
        for item in range(357):
            masked = np.flatnonzero(batch.inputs[item] == model.spec.vocabulary)
            assert measured.weights[draw, item] == len(masked) > 0
            if item % 40 == 0:
                logits = model.predict(batch.inputs[item : item + 1], batch.labels[item : item + 1], exits=(2, 4))
                for place in range(2):
                    chosen = log_softmax(logits[place][0].astype(float), axis=-1)[masked, clean[item, masked]]
                    assert measured.errors[place, draw, item] == pytest.approx(-chosen.mean(), rel=1e-4)
            total += measured.errors[:, draw, item] * len(masked)
            counted += len(masked)
    assert measured.losses == pytest.approx(total / counted)
    assert measured.correct is None


# Relay


class Oracle:
    """An engine that solves every cell up to distance `reach(exit)`, and beyond that every second item."""

    ops = type("Ops", (), {"cross_entropy": staticmethod(lambda logits, target: -logits.max(-1) + 0.0 * target)})

    def __init__(self, world, reach):
        self.world, self.reach, self.seen = world, reach, 0

    def upload(self, batch):
        return batch

    def numpy(self, array):
        return array

    def predict(self, batch, exits):
        items = self.seen + np.arange(len(batch.labels))
        self.seen += len(items)
        cells = np.arange(batch.target.shape[1]) % self.world.length  # one revealed cell a strip, the first
        outputs = []
        for exit in exits:
            solved = (cells <= self.reach(exit)) | (items[:, None] % 2 == 0)
            colours = np.where(solved, batch.target, (batch.target + 1) % self.world.colours)
            outputs.append(ExitOutput(np.eye(self.world.colours)[colours]))
        return outputs


@pytest.mark.parametrize("strips", [1, 3])
def test_accuracy_is_counted_by_distance_over_hidden_cells_only(monkeypatch, strips):
    monkeypatch.setattr(heldout, "BATCH", 64)
    options = (("length", 5), ("strips", strips), ("heldout_items", 200))
    run = Run("elt", "masked", "relay", architecture=Architecture(block="bert"), dataset_options=options)
    made = training.parts(run)
    found = evaluate(Model(run, Oracle(made.dataset, lambda exit: exit - 1), made), (1, 2, 4, 9), draws=1)
    assert found.strata == (1, 2, 3, 4)  # the revealed cells at distance 0 are no test of anything
    assert found.correct.tolist() == [[0.5] * 4, [1.0, 0.5, 0.5, 0.5], [1.0, 1.0, 1.0, 0.5], [1.0] * 4]
    assert np.array_equal(found.weights, np.full((1, 200), 4 * strips))


def test_an_item_keeps_its_own_strata_wherever_a_network_call_begins(monkeypatch):
    monkeypatch.setattr(heldout, "BATCH", 63)
    run = Run("elt", "masked", "relay", architecture=Architecture(block="bert"))
    made = training.parts(run)
    by_parity = np.arange(512)[:, None] % 2 + np.zeros((1, 16), int)
    monkeypatch.setattr(type(made.dataset), "strata", lambda world, clean: by_parity)
    found = evaluate(Model(run, Oracle(made.dataset, lambda exit: 0), made), [1], draws=1)
    assert (found.strata, found.correct.tolist()) == ((0, 1), [[1.0, 0.0]])


def sigmas_off_chance(found, model):
    """(exits, distances): how many binomial standard errors each accuracy lies off chance."""
    chance, items = 1 / model.spec.vocabulary, model.dataset.heldout_items
    return (found.correct - chance) / math.sqrt(chance * (1 - chance) / items)


def out_of_reach(found, model):
    shape = model.run.architecture
    return np.array(
        [
            [not reachable(distance, shape.unique_layers * exit, shape.attention_radius) for distance in found.strata]
            for exit in found.exits
        ]
    )


@pytest.mark.slow
@pytest.mark.parametrize(("layers", "radius"), [(1, 1), (2, 1), (1, 2)])
def test_no_untrained_network_knows_a_cell_beyond_its_depth(layers, radius):
    options = (("heldout_items", 2048),)
    model = untrained("relay", unique_layers=layers, attention_radius=radius, spread=1.0, dataset_options=options)
    found = evaluate(model, range(1, 9), draws=1)
    beyond = out_of_reach(found, model)
    assert 0 < beyond.sum() < beyond.size
    assert np.abs(sigmas_off_chance(found, model)[beyond]).max() < 4.5


@pytest.mark.slow
def test_a_trained_network_climbs_the_staircase_and_never_crosses_the_line(tmp_path):
    run = Run(
        "elt",
        "masked",
        "relay",
        architecture=Architecture(unique_layers=1, max_loops=3, width=32, heads=2, block="bert", attention_radius=1),
        optimisation=Optimisation(steps=400, batch_size=64, learning_rate=3e-3, warmup_steps=20, ema_decay=0.98),
        dataset_options=(("length", 8), ("colours", 3), ("heldout_items", 2048)),
    )
    model = Model(run, training.fit(run, tmp_path), training.parts(run))
    found = evaluate(model, range(1, 7), draws=1)
    beyond = out_of_reach(found, model)
    assert np.abs(sigmas_off_chance(found, model)[beyond]).max() < 4.5
    for exit in (1, 2, 3):
        assert (found.correct[exit - 1, :exit] > 0.9).all()  # what can be known is known
