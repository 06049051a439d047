from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit

from eltbench.core.config import decisive
from eltbench.data.base import Clean, DataSpec
from eltbench.tasks.base import ExitOutput
from eltbench.tasks.diffusion import Diffusion, DiffusionSampling, advance

SPEC = DataSpec("continuous", (4, 4), channels=1, classes=10)
PIXEL = DataSpec("continuous", (1, 1), channels=1, classes=10)


def clean_items(items: int, seed: int = 0) -> Clean:
    rng = np.random.default_rng(seed)
    values = rng.uniform(-1, 1, (items, 4, 4, 1)).astype(np.float32)
    return Clean(values, rng.integers(10, size=items).astype(np.int32))


def per_item(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float64).reshape(-1, 1, 1, 1)


def unclipped(**options) -> DiffusionSampling:
    return DiffusionSampling(clip=False, **options)


class Impulses:
    """Stands for a generator of independent normals: item j gets 1 at the j-th draw and 0 at all others.

    Sampling is linear in its draws when the denoiser is, so the squares of the final values over the items sum to
    the exact variance of a sample.
    """

    def __init__(self) -> None:
        self.draws = 0

    def standard_normal(self, shape, dtype):
        values = np.zeros(shape, dtype)
        values[self.draws] = 1
        self.draws += 1
        return values


def optimal_for_standard_normal_data(state, labels, log_snr, context, loops):
    """E[x | z] = α z where x ~ N(0, 1) and α² + σ² = 1."""
    return (np.sqrt(expit(per_item(log_snr))) * state).astype(np.float32)


def final_deviation(settings: DiffusionSampling, ops) -> float:
    draws = settings.steps if settings.sampler == "ddpm" or settings.eta else 1
    labels = np.zeros(settings.steps, np.int32)
    states = Diffusion().sample(
        optimal_for_standard_normal_data,
        PIXEL,
        labels,
        1,
        Impulses(),
        ops,
        settings,  # type: ignore[arg-type]
    )
    final = list(states)[-1].astype(np.float64)[:draws]
    return math.sqrt((final**2).sum())


@pytest.mark.parametrize(("steps", "published"), [(16, 0.880), (64, 0.965), (512, 0.995)])
def test_ancestral_sampling_has_the_closed_form_deviation_on_gaussian_data(steps, published, numpy_ops):
    assert final_deviation(unclipped(steps=steps, sampler="ddpm"), numpy_ops) == pytest.approx(published, abs=5.1e-4)


@pytest.mark.parametrize(("steps", "published"), [(16, 0.926), (64, 0.981), (512, 0.998)])
def test_ddim_has_the_closed_form_deviation_on_gaussian_data(steps, published, numpy_ops):
    assert final_deviation(unclipped(steps=steps, sampler="ddim"), numpy_ops) == pytest.approx(published, abs=5.1e-4)


def test_ddim_with_eta_one_equals_ancestral_sampling_with_gamma_zero_at_every_step(numpy_ops):
    def trajectory(settings):
        labels = np.zeros(5, np.int32)
        rng = np.random.default_rng(0)
        return list(Diffusion().sample(rough_denoiser, SPEC, labels, 1, rng, numpy_ops, settings))

    ancestral = trajectory(unclipped(steps=12, sampler="ddpm", gamma=0.0))
    assert np.allclose(trajectory(unclipped(steps=12, sampler="ddim", eta=1.0)), ancestral, rtol=1e-3, atol=1e-4)


def rough_denoiser(state, labels, log_snr, context, loops):
    return np.tanh(state * np.sqrt(expit(per_item(log_snr)))).astype(np.float32)


@given(
    st.floats(-14, 14),
    st.floats(0.01, 10),
    st.floats(-1, 1),
    st.sampled_from([("ddpm", 0.0), ("ddim", 0.0), ("ddim", 0.5), ("ddim", 1.0)]),
)
def test_a_step_with_the_true_x0_keeps_the_marginal_of_the_forward_process(current, gain, x0, kind):
    """With x̂ = x_0, z_t = α_t x_0 + σ_t ε must become N(α_s x_0, σ_s²)."""
    sampler, eta = kind
    settings, following = unclipped(sampler=sampler, eta=eta), current + gain
    alpha_t, sigma_t = math.sqrt(expit(current)), math.sqrt(expit(-current))

    def after(epsilon: float, noise: float) -> float:
        state = np.array([alpha_t * x0 + sigma_t * epsilon])
        return advance(state, np.array([x0]), current, following, np.array([noise]), settings)[0]

    mean = after(0, 0)
    variance = (after(1, 0) - mean) ** 2 + (after(0, 1) - mean) ** 2
    assert mean == pytest.approx(math.sqrt(expit(following)) * x0, abs=1e-9)
    assert variance == pytest.approx(expit(-following), rel=1e-6)


@given(st.floats(-10, 10), st.floats(0.01, 5), st.floats(0, 1))
def test_gamma_interpolates_the_ancestral_variance_geometrically(current, gain, gamma):
    def spread(gamma: float) -> float:
        zero = np.zeros(1)
        return advance(zero, zero, current, current + gain, np.ones(1), unclipped(sampler="ddpm", gamma=gamma))[0]

    assert spread(0) ** 2 == pytest.approx(expit(-current - gain) * -math.expm1(-gain), rel=1e-9)
    assert spread(1) ** 2 == pytest.approx(expit(-current) * -math.expm1(-gain), rel=1e-9)
    assert spread(gamma) == pytest.approx(spread(0) ** (1 - gamma) * spread(1) ** gamma, rel=1e-9)


@pytest.mark.parametrize("settings", [unclipped(sampler="ddpm"), unclipped(eta=1.0)], ids=["ddpm", "ddim"])
def test_the_last_step_adds_no_noise(settings):
    state, clean = np.full(1, 0.3), np.full(1, 0.7)
    last = advance(state, clean, 3.0, 15.0, None, settings)
    assert last == advance(state, clean, 3.0, 15.0, np.zeros(1), settings)
    assert last != advance(state, clean, 3.0, 15.0, np.ones(1), settings)


def test_the_estimate_of_x0_is_clipped_only_where_asked(numpy_ops):
    def far_off(state, labels, log_snr, context, loops):
        return np.full_like(state, 5.0)

    def final(clip: bool) -> np.ndarray:
        settings = DiffusionSampling(steps=4, clip=clip)
        rng = np.random.default_rng(0)
        return list(Diffusion().sample(far_off, SPEC, np.zeros(3, np.int32), 1, rng, numpy_ops, settings))[-1]

    assert final(clip=True) == pytest.approx(1.0, abs=0.01)
    assert final(clip=False) == pytest.approx(5.0, abs=0.01)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_a_sample_ends_in_the_last_estimate_where_asked_and_is_else_near_it(sampler, numpy_ops):
    estimates = []

    def denoised(state, labels, log_snr, context, loops):
        estimates.append(np.clip(0.9 * state, -1, 1).astype(np.float32))
        return estimates[-1]

    def states(ends: str) -> list[np.ndarray]:
        settings, rng = DiffusionSampling(steps=4, sampler=sampler, ends=ends), np.random.default_rng(0)
        return list(Diffusion().sample(denoised, SPEC, np.zeros(3, np.int32), 1, rng, numpy_ops, settings))

    usual, ended = states("sample"), states("estimate")
    assert np.array_equal(ended[-1], estimates[-1])
    assert all(np.array_equal(*pair) for pair in zip(usual[:-1], ended[:-1], strict=True))
    assert 0 < np.abs(usual[-1] - ended[-1]).max() < 0.01


def test_settings_that_came_later_leave_the_identity_of_a_measurement_alone():
    usual = Diffusion().sampling(steps=3)
    assert set(decisive(usual, asdict(usual))) == {"steps", "sampler", "eta", "gamma", "guidance_scale", "clip"}
    other = Diffusion().sampling(ends="estimate")
    assert decisive(other, asdict(other))["ends"] == "estimate"


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 0},
        {"ends": "somewhere"},
        {"sampler": "euler"},
        {"eta": 2.0},
        {"eta": -0.1},
        {"gamma": 1.5},
        {"step": 3},
    ],
)
def test_impossible_sampling_settings_are_refused_by_name(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Diffusion().sampling(**options)


@pytest.mark.parametrize(
    "options", [{"log_snr_min": 15.0}, {"log_snr_max": -16.0}, {"reference_resolution": 0}], ids=str
)
def test_impossible_schedules_are_refused_by_name(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Diffusion(**options)


# The contract of the generator


def test_a_state_follows_every_step_and_a_sent_integer_changes_the_loops_of_the_next(numpy_ops):
    calls = []

    def counting(state, labels, log_snr, context, loops):
        calls.append(loops)
        return 0 * state

    labels = np.arange(3, dtype=np.int32)
    settings = DiffusionSampling(steps=5)
    states = Diffusion().sample(counting, SPEC, labels, 4, np.random.default_rng(0), numpy_ops, settings)
    assert next(states).shape == (3, 4, 4, 1)
    assert calls == [4]
    states.send(2)
    next(states)
    states.send(7)
    assert calls == [4, 2, 2, 7]
    assert len(list(states)) == 1
    assert calls == [4, 2, 2, 7, 7]


def test_stopping_early_costs_no_further_calls_and_leaves_the_states_before_unchanged(numpy_ops):
    calls = []

    def counting(state, labels, log_snr, context, loops):
        calls.append(loops)
        return rough_denoiser(state, labels, log_snr, context, loops)

    def draw():
        labels = np.zeros(2, np.int32)
        return Diffusion().sample(
            counting, SPEC, labels, 1, np.random.default_rng(3), numpy_ops, DiffusionSampling(steps=6)
        )

    whole = [state.copy() for state in draw()]
    calls.clear()
    stopped = [state for state, _ in zip(draw(), range(2), strict=False)]
    assert len(calls) <= 3
    assert np.array_equal(stopped, whole[:2])


# Corruption and loss


def test_corruption_mixes_data_and_standard_normal_noise_at_uniform_times():
    clean = clean_items(4000)
    batch = Diffusion().corrupt(clean, SPEC, np.random.default_rng(0))
    assert batch.inputs.dtype == batch.log_snr.dtype == batch.weight.dtype == np.float32
    assert batch.target is clean.values
    alpha, sigma = (np.sqrt(expit(sign * per_item(batch.log_snr))) for sign in (1, -1))
    noisy_enough = batch.log_snr < 5  # below, rounding hides the noise
    noise = ((batch.inputs - alpha * clean.values) / sigma)[noisy_enough]
    assert stats.kstest(noise.ravel(), "norm").pvalue > 0.001
    start, end = math.atan(math.exp(-7.5)), math.atan(math.exp(7.5))
    time = (np.arctan(np.exp(-batch.log_snr.astype(np.float64) / 2)) - start) / (end - start)
    assert stats.kstest(time, "uniform").pvalue > 0.001


def test_loss_is_the_sigmoid_weighted_error_of_the_noise(numpy_ops):
    """E[-dλ/dt · sigmoid(b - λ) · ‖ε̂ - ε‖²] (arXiv 2410.19324 eq. 4), by its ε form."""
    clean = clean_items(200)
    batch = Diffusion(bias=-1.0).corrupt(clean, SPEC, np.random.default_rng(0))
    prediction = clean.values + np.random.default_rng(1).normal(0, 0.3, clean.values.shape)
    log_snr = batch.log_snr.astype(np.float64)
    alpha, sigma = (np.sqrt(expit(sign * per_item(log_snr))) for sign in (1, -1))
    difference = alpha / sigma * (clean.values - prediction)  # ε̂ - ε, where z = αx + σε = αx̂ + σε̂
    slope = 4 * (math.atan(math.exp(7.5)) - math.atan(math.exp(-7.5))) * np.cosh(log_snr / 2)  # sin 2u = 1/cosh(λ/2)
    expected = slope * expit(-1.0 - log_snr) * (difference**2).mean(axis=(1, 2, 3))
    output = ExitOutput(prediction)
    assert Diffusion().errors(output, batch, numpy_ops) == pytest.approx(expected, rel=1e-4)
    assert Diffusion().loss(output, batch, numpy_ops) == pytest.approx(expected.mean(), rel=1e-4)


def test_distillation_is_the_loss_with_the_teacher_in_place_of_the_data(numpy_ops):
    batch = Diffusion().corrupt(clean_items(20), SPEC, np.random.default_rng(0))
    student, teacher = (ExitOutput(clean_items(20, seed).values) for seed in (1, 2))
    expected = Diffusion().loss(student, batch._replace(target=teacher.prediction), numpy_ops)
    assert Diffusion().distillation(student, teacher, batch, numpy_ops) == pytest.approx(expected)
    assert Diffusion().distillation(teacher, teacher, batch, numpy_ops) == 0


def test_loss_is_the_mean_of_errors_under_the_item_weights(numpy_ops):
    batch = Diffusion().corrupt(clean_items(20), SPEC, np.random.default_rng(0))
    output = ExitOutput(clean_items(20, 1).values)
    errors = Diffusion().errors(output, batch, numpy_ops)
    expected = np.average(errors, weights=Diffusion().item_weights(batch))
    assert Diffusion().loss(output, batch, numpy_ops) == pytest.approx(expected, rel=1e-6)


def test_heldout_levels_are_stratified_per_item_and_labels_are_kept():
    task, clean, draws = Diffusion(), clean_items(50), 8
    batches = task.heldout(clean, SPEC, np.random.default_rng(0), draws)
    edges = task.log_snr(np.linspace(1, 0, draws + 1), SPEC)  # rising
    for draw, batch in enumerate(batches):
        assert np.array_equal(batch.labels, clean.labels)
        assert (np.searchsorted(edges, batch.log_snr.astype(np.float64)) == draws - draw).all()
    assert len(batches) == draws


def test_the_same_stream_gives_the_same_batch_and_another_gives_another():
    first, again, other = (Diffusion().corrupt(clean_items(8), SPEC, np.random.default_rng(s), 0.5) for s in (0, 0, 1))
    for field, repeated in zip(first, again, strict=True):
        assert np.array_equal(field, repeated) or field is repeated is None
    assert not np.array_equal(first.inputs, other.inputs)
