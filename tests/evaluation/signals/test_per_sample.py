"""The per-sample table against the held-out evaluation, enumeration, and models that agree by construction."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy

from eltbench.core.config import Architecture, Run
from eltbench.core.streams import stream
from eltbench.data import latin
from eltbench.data.relay import Relay
from eltbench.evaluation import heldout
from eltbench.evaluation.signals import per_sample
from eltbench.evaluation.signals.exit_trace import trace
from eltbench.evaluation.signals.per_sample import exact_posterior, loss_apart, observe
from eltbench.evaluation.signals.uncertainty import SIGNALS
from eltbench.training.loop import build_engine, parts
from eltbench.training.model import Model

WORLDS = [("diffusion", "digits"), ("masked", "latin"), ("masked", "relay")]
EXITS = (1, 2, 3)


def fresh(task="masked", dataset="latin", trainer="elt", seed=0, **shape) -> Model:
    block = "dit" if task == "diffusion" else "bert"
    options = (("heldout_items", 40),) if dataset == "relay" else ()
    architecture = Architecture(
        **{"unique_layers": 1, "max_loops": 3, "width": 16, "heads": 2, "block": block, **shape}
    )
    run = Run(trainer, task, dataset, seed=seed, architecture=architecture, dataset_options=options)
    made = parts(run)
    return Model(run, build_engine(run, made), made)


def batch_of(model):
    return model.task.heldout(model.dataset.heldout(), model.spec, stream(model.run.dataset, 0, "heldout"), 1)[0]


@pytest.mark.parametrize("world", WORLDS)
def test_the_error_is_that_of_the_heldout_evaluation_item_by_item(world):
    model = fresh(*world)
    observed, losses = observe(model, EXITS, 2), heldout.evaluate(model, EXITS, 2)
    weights = losses.weights if world[0] == "diffusion" else np.ones_like(losses.weights)
    batches = model.task.heldout(model.dataset.heldout(), model.spec, stream(model.run.dataset, 0, "heldout"), 2)
    if world[0] == "diffusion":
        weights = np.stack([batch.weight for batch in batches])
    expected = losses.errors.reshape(len(EXITS), -1)
    np.testing.assert_allclose(observed.error * weights.ravel(), expected, rtol=1e-4)
    draws, items = losses.weights.shape
    assert np.array_equal(observed.draw, np.repeat(np.arange(draws), items))
    assert np.array_equal(observed.item, np.tile(np.arange(items), draws))
    table = observed.table()
    assert len(table) == len(EXITS) * draws * items
    third = table[(table["loops"] == 3) & (table["item"] == 7) & (table["draw"] == 0)].iloc[0]
    assert third[next(iter(observed.errors))] == np.float32(observed.error[2, 7])


def test_tokens_as_units_are_the_hidden_ones_and_average_to_their_item():
    model = fresh("masked", "relay", attention_radius=1)
    tokens, items = observe(model, EXITS, 1, by_token=True), observe(model, EXITS, 1)
    assert set(tokens.token) == set(range(1, 16))  # the first colour is shown
    assert np.array_equal(tokens.level, tokens.token)  # its distance
    for name in ("negative_log_likelihood", "error_rate", "model_error", "irreducible"):
        means = [np.bincount(tokens.item, of) / 15 for of in tokens.errors[name]]
        np.testing.assert_allclose(means, items.errors[name], atol=1e-6)
    for name in ("entropy", "kl_to_previous", "relative_update_norm"):
        means = [np.bincount(tokens.item, of) / 15 for of in tokens.signals[name]]
        np.testing.assert_allclose(means, items.signals[name], rtol=1e-4, atol=1e-7)


def test_the_loss_expected_under_the_posterior_is_the_models_error_and_what_nobody_avoids():
    model = fresh("masked", "latin")
    batch, observed = batch_of(model), observe(model, EXITS, 1)
    exact = latin.posterior(batch.inputs)
    for exit, output in enumerate(trace(model, batch, EXITS).outputs):
        p, q = exact[batch.weight > 0], softmax(output.prediction.numpy().astype(float), axis=-1)
        expected = [-(one * np.log(other))[one > 0].sum() for one, other in zip(p, q, strict=True)]
        counts = batch.weight.sum(axis=1).astype(int)
        by_item = [part.mean() for part in np.split(expected, np.cumsum(counts)[:-1])]
        found = observed.errors["model_error"][exit] + observed.errors["irreducible"][exit]
        np.testing.assert_allclose(found, by_item, rtol=1e-5)
        assert (observed.errors["model_error"][exit] > 0).all()


def test_loss_apart_is_scipys_divergence_and_entropy():
    rng = np.random.default_rng(0)
    p, logits = rng.dirichlet(np.ones(5), size=7), rng.standard_normal((7, 5))
    p[0] = [1, 0, 0, 0, 0]
    divergence, own = loss_apart(p, logits)
    np.testing.assert_allclose(divergence, entropy(p, softmax(logits, axis=-1), axis=-1))
    np.testing.assert_allclose(own, entropy(p, axis=-1))


@pytest.mark.parametrize(
    ("trainer", "shape", "loops", "reach"), [("elt", {}, 2, 4), ("unique-depth", {"max_loops": 1}, 1, 2)]
)
def test_what_an_exit_can_know_of_a_relay_ends_at_its_reach(trainer, shape, loops, reach):
    model = fresh("masked", "relay", trainer, unique_layers=2, attention_radius=1, **shape)
    batch = batch_of(model)
    exact = exact_posterior(model, batch, loops)
    colours = Relay().colours
    assert np.array_equal(exact[:, 1 : reach + 1], np.eye(colours)[batch.target[:, 1 : reach + 1]])
    assert (exact[:, reach + 1 :] == 1 / colours).all()


def test_a_world_without_a_known_posterior_has_no_irreducible_error():
    observed = observe(fresh("diffusion", "digits"), EXITS, 1)
    assert list(observed.errors) == ["x0_error"]


@pytest.mark.parametrize("world", WORLDS)
def test_an_ensemble_of_a_model_and_its_copy_disagrees_on_nothing(world):
    model = fresh(*world)
    observed = observe(model, EXITS, 1, members={"ensemble": [fresh(*world)]}, by_token=world[1] == "relay")
    if world[0] == "diffusion":
        np.testing.assert_allclose(observed.signals["ensemble_variance"], 0, atol=1e-12)
    else:
        np.testing.assert_allclose(observed.signals["ensemble_information"], 0, atol=1e-6)
        np.testing.assert_allclose(observed.signals["ensemble_entropy"], observed.signals["entropy"], rtol=1e-4)


def test_another_seed_disagrees_and_the_unique_depth_model_says_the_same_at_every_exit():
    unique = fresh(trainer="unique-depth", unique_layers=3, max_loops=1)
    others = {"ensemble": [fresh(seed=1)], "unique-depth": [unique]}
    signals = observe(fresh(), EXITS, 1, members=others).signals
    assert (signals["ensemble_information"] > 0).all()
    assert (signals["unique_depth_entropy"] == signals["unique_depth_entropy"][0]).all()
    np.testing.assert_allclose(
        signals["unique_depth_entropy"][0], observe(unique, [1], 1).signals["entropy"][0], rtol=1e-5
    )


@pytest.mark.parametrize("dataset", ["latin", "relay"])
def test_passes_with_dropout_disagree_the_more_of_it_there_is(dataset):
    variety = []
    for dropout in (0.01, 0.3):
        model = fresh("masked", dataset, dropout=dropout)
        signals = observe(model, EXITS, 1, dropout_passes=3, by_token=dataset == "relay").signals
        variety.append(signals["dropout_information"].mean(axis=1))
    assert (variety[1] > 2 * variety[0]).all()
    assert (variety[0] > 0).all()


def test_signals_of_further_loops_are_measured_where_asked_and_nowhere_else():
    signals = observe(fresh(), EXITS, 1, further=[2]).signals
    for name in ("residual", "perturbation_growth"):
        assert np.isfinite(signals[name][1]).all()
        assert np.isnan(signals[name][[0, 2]]).all()


def test_tokens_of_a_world_that_masks_at_random_have_the_level_of_their_item():
    model = fresh()
    tokens, batch = observe(model, EXITS, 1, by_token=True), batch_of(model)
    assert np.array_equal(tokens.level, batch.weight.mean(axis=1)[tokens.item])
    assert (batch.inputs[tokens.item, tokens.token] == model.spec.vocabulary).all()
    assert len(tokens.item) == batch.weight.sum()


def test_a_world_without_tokens_has_none_to_be_units():
    with pytest.raises(ValueError, match="'digits' has no tokens to be units"):
        observe(fresh("diffusion", "digits"), EXITS, 1, by_token=True)


def test_exits_up_to_a_depth_are_those_of_a_shallower_look():
    """Also of signals that look back; none that may stop looks ahead."""
    model = fresh("masked", "relay", attention_radius=1)
    cut, shallow = observe(model, EXITS, 1).up_to(2), observe(model, EXITS[:2], 1)
    assert cut.loops == shallow.loops
    assert cut.errors.keys() == shallow.errors.keys()
    for name, values in shallow.errors.items():
        np.testing.assert_allclose(cut.errors[name], values, rtol=1e-5, atol=1e-6)
    for name, values in shallow.signals.items():
        if SIGNALS[name].may_stop:
            np.testing.assert_allclose(cut.signals[name], values, rtol=1e-4, atol=1e-6)
    assert len(cut.table()) == 2 * len(cut.item)


def test_held_out_items_beyond_a_batch_are_divided_alike(monkeypatch):
    """So that no piece is of one item, which has no other to be compared with."""
    sizes = []
    monkeypatch.setattr(per_sample, "BATCH", 13)
    monkeypatch.setattr(
        per_sample, "trace", lambda model, piece, _: sizes.append(len(piece.labels)) or trace(model, piece, EXITS)
    )
    observe(fresh("masked", "relay", attention_radius=1), EXITS, 1)
    assert sizes == [10, 10, 10, 10]
