from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit

from eltbench import tasks
from eltbench.data.base import Clean, DataSpec
from eltbench.tasks.diffusion import DiffusionSampling, advance
from eltbench.tasks.guidance import drop_labels, guided

NULL = 10
LABELS = np.array([3, 7, 0], np.int32)
INPUTS = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
LEVEL, CONTEXT = np.array([0.1, 0.2, 0.3], np.float32), np.array([[5], [6], [7]])


class Recorded:
    """A network that depends on the label in a way that can be checked by hand; remembers its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def __call__(self, inputs, labels, log_snr, context, loops):
        self.calls.append((inputs, labels, log_snr, context, loops))
        return inputs * (1 + labels[:, None])


def test_scale_one_leaves_the_call_as_it_is(numpy_ops):
    network = Recorded()
    assert guided(network, 1.0, NULL, numpy_ops) is network


@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0])
def test_guidance_is_u_plus_s_times_c_minus_u_from_one_batched_call(scale, numpy_ops):
    network = Recorded()
    result = guided(network, scale, NULL, numpy_ops)(INPUTS, LABELS, LEVEL, CONTEXT, 4)
    conditional, unconditional = INPUTS * (1 + LABELS[:, None]), INPUTS * (1 + NULL)
    assert result == pytest.approx(unconditional + scale * (conditional - unconditional), rel=1e-6)
    ((inputs, labels, log_snr, context, loops),) = network.calls
    assert labels.tolist() == [*LABELS, NULL, NULL, NULL]
    assert loops == 4
    for doubled, single in ((inputs, INPUTS), (log_snr, LEVEL), (context, CONTEXT)):
        assert np.array_equal(doubled, np.concatenate([single, single]))


def test_what_is_absent_stays_absent_in_a_guided_call(numpy_ops):
    network = Recorded()
    guided(network, 2.0, NULL, numpy_ops)(INPUTS, LABELS, None, None, 1)
    assert network.calls[0][2] is network.calls[0][3] is None


@pytest.mark.parametrize("name", ["masked", "diffusion"])
def test_a_guided_sample_calls_the_network_once_a_step_on_twice_the_items(name, numpy_ops):
    spec = {
        "masked": DataSpec("tokens", (2, 2), vocabulary=5, classes=NULL),
        "diffusion": DataSpec("continuous", (2, 2), channels=1, classes=NULL),
    }[name]
    sizes = []

    def network(inputs, labels, log_snr, context, loops):
        sizes.append(len(inputs))
        return np.zeros((*inputs.shape, 5), np.float32) if name == "masked" else 0 * inputs

    task = tasks.create(name)
    for scale, expected in ((1.0, 3), (2.0, 6)):
        sizes.clear()
        settings = task.sampling(steps=3, guidance_scale=scale)
        list(task.sample(network, spec, LABELS, 1, np.random.default_rng(0), numpy_ops, settings))
        assert sizes == [expected] * 3


@given(st.floats(-8, 8), st.floats(0.1, 4), st.floats(0, 5))
def test_guiding_the_estimate_of_x0_equals_guiding_the_estimate_of_noise(current, gain, scale):
    """ε̂ = (z - α x̂)/σ is affine in x̂, and u + s(c - u) keeps affine maps, unless x̂ is clipped."""
    state, conditional, unconditional = (np.array([value]) for value in (0.4, 0.9, -0.3))
    alpha, sigma = np.sqrt(expit(current)), np.sqrt(expit(-current))

    def noise_of(estimate):
        return (state - alpha * estimate) / sigma

    guided_noise = noise_of(unconditional) + scale * (noise_of(conditional) - noise_of(unconditional))
    by_noise = (state - sigma * guided_noise) / alpha
    by_estimate = unconditional + scale * (conditional - unconditional)
    assert by_estimate == pytest.approx(by_noise, abs=1e-6 / alpha)

    settings = DiffusionSampling(clip=False)
    following = current + gain
    stepped = advance(state, by_estimate, current, following, None, settings)
    expected = np.sqrt(expit(following)) * by_noise + np.sqrt(expit(-following)) * guided_noise
    assert stepped == pytest.approx(expected, abs=1e-6 / alpha)


def test_clipping_comes_after_guidance(numpy_ops):
    spec = DataSpec("continuous", (1, 1), channels=1, classes=NULL)

    def network(inputs, labels, log_snr, context, loops):
        return np.where(labels == NULL, 1.5, 2.0).astype(np.float32).reshape(-1, 1, 1, 1)

    def final(clip: bool) -> np.ndarray:
        task = tasks.create("diffusion")
        settings = DiffusionSampling(steps=2, guidance_scale=-2.0, clip=clip)
        return list(task.sample(network, spec, LABELS, 1, np.random.default_rng(0), numpy_ops, settings))[-1]

    # Guided first: 1.5 - 2·0.5 = 0.5, which needs no clipping. Clipped first, both are 1 and so is every guidance.
    assert final(clip=True) == pytest.approx(final(clip=False))
    assert final(clip=True) == pytest.approx(0.5, abs=0.01)


# Label dropout


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
def test_labels_are_dropped_at_the_stated_rate_and_otherwise_kept(rate):
    labels = np.arange(20_000, dtype=np.int32) % NULL
    dropped = drop_labels(labels, NULL, rate, np.random.default_rng(0))
    assert dropped.dtype == np.int32
    gone = dropped == NULL
    low, high = stats.binom.interval(0.999, len(labels), rate) if 0 < rate < 1 else (rate * 20_000, rate * 20_000)
    assert low <= gone.sum() <= high
    assert np.array_equal(dropped[~gone], labels[~gone])


@pytest.mark.parametrize("name", ["masked", "diffusion"])
def test_corruption_drops_labels_at_the_stated_rate_and_the_rate_changes_nothing_else(name):
    spec = {
        "masked": DataSpec("tokens", (2, 2), vocabulary=5, classes=NULL),
        "diffusion": DataSpec("continuous", (2, 2), channels=1, classes=NULL),
    }[name]
    items = 5000
    values = np.zeros((items, 4), np.int32) if name == "masked" else np.zeros((items, 2, 2, 1), np.float32)
    clean = Clean(values, np.full(items, 4, np.int32))
    kept, dropped = (tasks.create(name).corrupt(clean, spec, np.random.default_rng(0), rate) for rate in (0.0, 0.1))
    assert (kept.labels == 4).all()
    low, high = stats.binom.interval(0.999, items, 0.1)
    assert low <= (dropped.labels == NULL).sum() <= high
    assert np.array_equal(kept.inputs, dropped.inputs)
    assert np.array_equal(kept.weight, dropped.weight)
