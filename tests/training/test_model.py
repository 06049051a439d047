"""Predictions and samples of a trained model."""

from __future__ import annotations

import numpy as np
import pytest
from trained_runs import LABELS, RUNS, every_looped_model

from eltbench.training.identity import run_id
from eltbench.training.model import Model, load_model


def record_calls(model: Model, monkeypatch) -> list[tuple]:
    """The (batch, exits, predictions) of every call that sampling makes."""
    calls, predict = [], model.engine.predict

    def recording(batch, exits, *args):
        outputs = predict(batch, exits, *args)
        calls.append((batch, exits, [model.engine.numpy(output.prediction) for output in outputs]))
        return outputs

    monkeypatch.setattr(model.engine, "predict", recording)
    return calls


# Predictions


@pytest.mark.slow
@every_looped_model
def test_predictions_at_any_exits_are_those_that_sampling_uses(model, monkeypatch):
    calls = record_calls(model, monkeypatch)
    model.sample(LABELS, loops=5, steps=3, guidance_scale=2.0)
    sampling = list(calls)
    assert len(sampling) == 3
    for batch, exits, (used,) in sampling:
        assert exits == (5,)
        inputs, labels = model.engine.numpy(batch.inputs), model.engine.numpy(batch.labels)
        log_snr = None if batch.log_snr is None else model.engine.numpy(batch.log_snr)
        *_, asked = model.predict(inputs, labels, log_snr, exits=(1, 2, 5))
        assert np.allclose(asked, used, rtol=0, atol=1e-5)


def test_an_exit_does_not_depend_on_which_others_are_asked(model):
    inputs = np.random.default_rng(0).normal(size=(2, 8, 8, 1))
    together = model.predict(inputs, [3, 4], 0.0, exits=(1, 3, 9))
    for exit, prediction in zip((1, 3, 9), together, strict=True):
        assert np.allclose(model.predict(inputs, [3, 4], 0.0, exits=(exit,))[0], prediction, rtol=0, atol=1e-6)
    assert not np.allclose(together[0], together[2], rtol=0, atol=1e-6)


@pytest.mark.parametrize("model", ["diffusion"], indirect=True)
def test_predictions_have_the_shape_of_the_data_and_one_level_serves_all_items(model):
    inputs = np.zeros((4, 8, 8, 1))  # double precision is accepted
    (one,) = model.predict(inputs, log_snr=0.5, exits=(2,))
    (each,) = model.predict(inputs, np.full(4, 10), np.full(4, 0.5), exits=(2,))
    assert one.shape == (4, 8, 8, 1)
    assert one.dtype == np.float32
    assert np.array_equal(one, each)  # the null label is the default


@pytest.mark.parametrize("model", ["masked"], indirect=True)
def test_masked_predictions_are_logits_over_the_vocabulary(model):
    (logits,) = model.predict(np.full((2, 16), 64, np.int64), exits=(1,))
    assert logits.shape == (2, 16, 64)


def test_what_a_prediction_needs_is_asked_for(store):
    with pytest.raises(ValueError, match="log_snr"):
        load_model(run_id(RUNS["diffusion"]), runs=store).predict(np.zeros((1, 8, 8, 1)), exits=(1,))
    with pytest.raises(ValueError, match="context"):
        load_model(run_id(RUNS["relay"]), runs=store).predict(np.zeros((1, 16)), exits=(1,))


@pytest.mark.parametrize("exits", [(), (0,), (2, 2), (3, 1), (-1, 2)])
def test_impossible_exits_are_refused_with_what_was_given(model, exits):
    with pytest.raises(ValueError, match=r"^exits: "):
        model.predict(np.zeros((1, 8, 8, 1)), log_snr=0.0, exits=exits)


@pytest.mark.parametrize("model", ["unique"], indirect=True)
def test_exits_beyond_a_unique_depth_network_are_refused(model):
    assert len(model.predict(np.zeros((1, 8, 8, 1)), log_snr=0.0, exits=(1,))) == 1
    with pytest.raises(ValueError, match=r"ends at exit 1, given \[1, 2\]"):
        model.predict(np.zeros((1, 8, 8, 1)), log_snr=0.0, exits=(1, 2))
    with pytest.raises(ValueError, match="ends at exit 1"):
        model.sample(LABELS, loops=2)


# Samples


@every_looped_model
@pytest.mark.parametrize("loops", [1, 3, 8])
def test_samples_can_be_drawn_at_any_loop_count_also_beyond_training(model, loops):
    sample = model.sample(LABELS, loops=loops, steps=2)
    images = model.dataset.images(sample)
    assert images.shape == (6, 8, 8, 1)
    assert np.isfinite(images).all()
    assert np.abs(images).max() <= 1
    if model.spec.kind == "tokens":
        assert 0 <= sample.min() <= sample.max() < model.spec.vocabulary


@every_looped_model
def test_one_seed_draws_one_sample_and_another_seed_another(model):
    first, again, other = (model.sample(LABELS, loops=2, steps=3, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_one_seed_starts_from_the_same_noise_at_every_loop_count(model, monkeypatch):
    calls = record_calls(model, monkeypatch)
    for loops in (1, 6):
        model.sample(LABELS, loops=loops, steps=1, seed=4)
    (shallow, *_), (deep, *_) = calls
    assert np.array_equal(shallow.inputs, deep.inputs)


@pytest.mark.parametrize("model", ["relay"], indirect=True)
def test_a_sample_keeps_what_the_world_reveals(model):
    given = model.dataset.heldout().select(slice(5))
    sample = model.sample(given.labels, loops=2, steps=4, given=given)
    assert np.array_equal(sample[~given.hidden], given.values[~given.hidden])
    assert sample.max() < model.spec.vocabulary


def test_a_trajectory_ends_with_the_sample_and_takes_new_loops_between_its_steps(model, monkeypatch):
    states = list(model.trajectory(LABELS, 2, steps=4))
    assert len(states) == 4
    assert np.array_equal(states[-1], model.sample(LABELS, loops=2, steps=4))
    calls = record_calls(model, monkeypatch)
    steering = model.trajectory(LABELS, 2, steps=4)
    assert np.array_equal(next(steering), states[0])
    steering.send(5)
    list(steering)
    assert [exits for _, exits, _ in calls] == [(2,), (5,), (5,), (5,)]


def test_impossible_samples_are_refused_before_the_first_step(model):
    for loops, settings, message in (
        (0, {}, "at least 1"),
        (2, {"steps": 0}, "steps must be at least 1"),
        (2, {"samplr": "ddpm"}, "did you mean 'sampler'"),
    ):
        with pytest.raises(ValueError, match=message):
            model.trajectory(LABELS, loops, **settings)
