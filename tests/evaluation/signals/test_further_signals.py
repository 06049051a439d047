"""Residual, path dependence and growth of perturbations of maps whose behaviour is known in closed form."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cosine

from eltbench.core.config import Architecture, Run
from eltbench.evaluation import trajectory
from eltbench.evaluation.signals.further_signals import (
    measure_further,
    path_dependence,
    residual,
)
from eltbench.training.loop import build_engine, parts
from eltbench.training.model import Model

RNG = np.random.default_rng(5)


class Injected:
    """h ↦ c·h + x, x the input of each item; with |c| < 1 it forgets where it began."""

    solver = None

    def __init__(self, keep, inputs):
        self.keep, self.initial, self.asked = keep, inputs, []

    def loop(self, state, index):
        self.asked.append(index)
        return self.keep * state + self.initial


def states_of(recurrence, loops):
    found = trajectory.trajectory(recurrence, loops)
    recurrence.asked.clear()
    return found


def test_the_residual_is_the_update_of_one_loop_further():
    recurrence = Injected(0.5, RNG.standard_normal((3, 2, 4)))
    states = states_of(recurrence, 6)
    # h_L = (2 - 2^-L) x, so h_{L+1} - h_L = 2^-(L+1) x
    expected = np.full(3, 2.0**-6 / (2 - 2.0**-6))
    np.testing.assert_allclose(residual(recurrence, states[5], 5), expected)
    np.testing.assert_allclose(expected, trajectory.relative_update_norm(states, 6))
    assert recurrence.asked == [6]


def test_path_dependence_is_the_angle_between_a_state_and_its_rerun_from_the_next():
    inputs = RNG.standard_normal((3, 2, 4))
    recurrence = Injected(0.8, inputs)
    state = states_of(recurrence, 3)[3]
    # From s, loops 2 and 3 lead to 0.8²·s + 1.8·x.
    reruns = [0.64 * state[(i + 1) % 3] + 1.8 * inputs[i] for i in range(3)]
    expected = [cosine(state[i].ravel(), reruns[i].ravel()) for i in range(3)]
    np.testing.assert_allclose(path_dependence(recurrence, state, 3), expected)
    assert recurrence.asked == [2, 3]


def test_a_map_that_forgets_is_independent_of_its_path_and_one_that_keeps_its_state_is_not():
    inputs = RNG.standard_normal((8, 2, 4))
    found = []
    for keep in (0.0, 0.3, 1.0):
        recurrence = Injected(keep, inputs)
        found.append(path_dependence(recurrence, states_of(recurrence, 12)[12], 12).mean())
    assert found[0] == pytest.approx(0, abs=1e-12)
    assert found[0] < found[1] < 1e-5
    assert found[2] > 0.1


def test_impossible_reruns_are_refused():
    recurrence = Injected(0.5, RNG.standard_normal((3, 2, 4)))
    with pytest.raises(ValueError, match="L is at least 2, given exit 1"):
        path_dependence(recurrence, recurrence.initial, 1)
    with pytest.raises(ValueError, match="the state of another item, given one item"):
        path_dependence(recurrence, recurrence.initial[:1], 2)


RUN = Run("elt", "masked", "digits-codes", architecture=Architecture(width=16, heads=2, block="bert"))


def model_and_batch(run, items=5):
    made = parts(run)
    engine = build_engine(run, made)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in engine.average.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    model = Model(run, engine, made)
    clean = made.dataset.heldout().select(slice(items))
    return model, made.task.heldout(clean, model.spec, np.random.default_rng(0), 1)[0]


def test_without_injection_a_model_shows_residual_and_growth_of_perturbations():
    model, batch = model_and_batch(RUN)
    measured = measure_further(model, batch, (1, 3), recovery_loops=2)
    assert measured.keys() == {"residual", "perturbation_growth"}
    states = trajectory.trajectory(model.engine.recurrence(model.engine.upload(batch)), 4)
    np.testing.assert_allclose(measured["residual"][1], trajectory.relative_update_norm(states, 4), rtol=1e-5)
    assert all(values.shape == (2, 5) and np.isfinite(values).all() for values in measured.values())
    again = measure_further(model, batch, (1, 3), recovery_loops=2)
    assert np.array_equal(again["perturbation_growth"], measured["perturbation_growth"])


def test_with_injection_a_model_shows_path_dependence_from_the_second_exit_on():
    model, batch = model_and_batch(replace(RUN, architecture=replace(RUN.architecture, input_injection=True)))
    measured = measure_further(model, batch, (1, 2, 3))
    assert measured.keys() == {"residual", "path_dependence"}
    assert np.isnan(measured["path_dependence"][0]).all()
    assert ((measured["path_dependence"][1:] > 0) & (measured["path_dependence"][1:] <= 2)).all()


def test_a_unique_depth_network_has_no_further_loops():
    model, batch = model_and_batch(
        replace(RUN, trainer="unique-depth", architecture=replace(RUN.architecture, max_loops=1))
    )
    with pytest.raises(ValueError, match="trainer 'unique-depth' has no loops"):
        measure_further(model, batch, (1,))
