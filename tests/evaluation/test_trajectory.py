"""Diagnostics of the looped map against maps whose behaviour is known in closed form."""

from types import SimpleNamespace

import numpy as np
import pytest

from eltbench.core.config import Architecture, Run
from eltbench.evaluation import trajectory
from eltbench.evaluation.trajectory import diagnose, recovery, spectral_radius, update_norms_by_noise
from eltbench.tasks.base import Batch
from eltbench.training.loop import build_engine, parts
from eltbench.training.model import Model

RNG = np.random.default_rng(7)


class LinearMap:
    """A recurrence h ↦ A h + c on states (B, T, width), alike at every loop; A acts on an item's flattened state."""

    solver = None

    def __init__(self, matrix, initial, constant=0.0):
        self.matrix, self.initial, self.constant = matrix, initial, constant
        self.asked = []

    def loop(self, state, index):
        self.asked.append((state, index))
        return (state.reshape(len(state), -1) @ self.matrix.T).reshape(state.shape) + self.constant

    def read(self, state):
        return state

    def jacobian(self, state, index):
        return lambda vector: self.loop(vector, index) - self.constant


class LinearEngine:
    """An engine on NumPy arrays whose recurrence is `make(batch)`."""

    ops = SimpleNamespace(asarray=lambda array: array)

    def __init__(self, make):
        self.recurrence = make

    def upload(self, batch):
        return batch

    def numpy(self, array):
        return array


def linear_model(make, **fields):
    run = Run(**{"trainer": "elt", "task": "diffusion", "dataset": "digits", **fields})
    return Model(run, LinearEngine(make), parts(run))


def with_eigenvalues(values, size):
    """A dense non-symmetric real matrix with the given real eigenvalues and complex pairs, and zeros."""
    diagonal = np.zeros((size, size))
    place = 0
    for value in values:
        pair = np.array([[value.real, -value.imag], [value.imag, value.real]]) if np.iscomplex(value) else [[value]]
        width = len(pair)
        diagonal[place : place + width, place : place + width] = np.real(pair)
        place += width
    basis = np.eye(size) + 0.3 * np.random.default_rng(1).standard_normal((size, size)) / np.sqrt(size)
    return basis @ diagonal @ np.linalg.inv(basis)


def spiral(growth, angle, loops, items=3):
    """States (items, 2, 1) turning by `angle` and growing by `growth` a loop, from random beginnings."""
    matrix = growth * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return trajectory.trajectory(LinearMap(matrix, RNG.standard_normal((items, 2, 1))), loops)


@pytest.mark.parametrize(("growth", "angle"), [(0.5, 0.0), (1.3, 0.0), (1.0, 0.4), (0.8, 2.5)])
@pytest.mark.parametrize("loops", [2, 5])
def test_stepwise_metrics_of_a_spiral_have_closed_forms(growth, angle, loops):
    states = spiral(growth, angle, loops)
    step = abs(1 - 1 / (growth * np.exp(1j * angle)))  # |1 - 1/z|, z the factor of one loop
    expected = {
        trajectory.relative_update_norm: step,
        trajectory.direction_update_norm: 2 * np.sin(angle / 2),
        trajectory.update_cosine: np.cos(angle),
        trajectory.relative_acceleration: step**2,
    }
    for metric, value in expected.items():
        np.testing.assert_allclose(metric(states, loops), np.full(3, value), atol=1e-12, err_msg=metric.__name__)


def test_stepwise_metrics_agree_between_numpy_and_torch():
    import torch

    states = list(RNG.standard_normal((4, 2, 5, 8)))
    for metric in trajectory.STEPWISE:
        np.testing.assert_allclose(metric([torch.tensor(state) for state in states], 3).numpy(), metric(states, 3))


@pytest.mark.parametrize(
    ("eigenvalues", "radius"),
    [
        ([1.02, -0.9, 0.5], 1.02),
        ([-1.1, 1.05, 0.2], 1.1),
        ([0.78 + 0.66j, 0.95, -0.6], abs(0.78 + 0.66j)),
        ([-0.3 + 1.2j, 1.1, 0.4 + 0.1j], abs(-0.3 + 1.2j)),
    ],
)
def test_spectral_radius_of_a_matrix_with_known_eigenvalues(eigenvalues, radius):
    matrix = with_eigenvalues(eigenvalues, 60)
    found = spectral_radius(lambda vector: matrix @ vector, 60)
    assert found.value == pytest.approx(radius, rel=2e-3)
    assert found.reason is None


def test_spectral_radius_tries_a_larger_basis_and_then_says_why_there_is_none(monkeypatch):
    angles = np.linspace(0.1, 3.0, 50)
    matrix = with_eigenvalues(0.9 * np.exp(1j * angles), 100)  # 100 eigenvalues of one modulus: none stands out
    monkeypatch.setattr(trajectory, "ARNOLDI", ((4, 1),))
    stuck = spectral_radius(lambda vector: matrix @ vector, 100)
    assert np.isnan(stuck.value)
    assert "No convergence" in stuck.reason
    monkeypatch.setattr(trajectory, "ARNOLDI", ((4, 1), (100, 1)))
    assert spectral_radius(lambda vector: matrix @ vector, 100).value == pytest.approx(0.9, rel=2e-3)


def test_spectral_radius_of_a_map_that_is_not_finite_is_nan_with_a_reason():
    found = spectral_radius(lambda vector: np.full_like(vector, np.inf), 10)
    assert np.isnan(found.value)
    assert "not finite" in found.reason


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.4])
def test_recovery_is_the_factor_of_a_uniform_contraction(factor):
    rotation = np.linalg.qr(RNG.standard_normal((8, 8)))[0]
    recurrence = LinearMap(factor * rotation, RNG.standard_normal((5, 2, 4)), constant=0.3)
    ratio = recovery(recurrence, recurrence.initial, 3, RNG.standard_normal((5, 2, 4)), loops=4)
    np.testing.assert_allclose(ratio, np.full(5, factor), rtol=1e-10)
    assert [index for _, index in recurrence.asked] == [4, 4, 5, 5, 6, 6, 7, 7]  # the loops that follow exit 3


def test_perturbation_is_one_percent_of_every_items_own_norm():
    scales = np.array([1.0, 10.0, 0.01]).reshape(3, 1, 1)
    recurrence = LinearMap(np.eye(8), scales * RNG.standard_normal((3, 2, 4)))
    recovery(recurrence, recurrence.initial, 1, 5 * RNG.standard_normal((3, 2, 4)), loops=1)
    (state, _), (perturbed, _) = recurrence.asked
    size = np.linalg.norm((perturbed - state).reshape(3, -1), axis=1) / np.linalg.norm(state.reshape(3, -1), axis=1)
    np.testing.assert_allclose(size, 0.01)


def batch_of(items):
    return Batch(np.zeros((items, 8, 8, 1)), np.zeros(items, np.int32), None, np.zeros(items), None, None)


def test_diagnose_gives_every_metric_at_every_exit_where_it_is_defined():
    matrix = with_eigenvalues([0.78 + 0.66j, 0.95], 16)
    model = linear_model(lambda batch: LinearMap(matrix, np.ones((len(batch.labels), 4, 4))))
    rows = diagnose(model, batch_of(6), [1, 2, 5], stability_exits=[2, 4], samples=3)
    where = {}
    for row in rows:
        assert set(row) == {"loops", "metric", "value", "n_samples", "reason"}
        where.setdefault(row["metric"], []).append(row["loops"])
    assert where == {
        "relative_update_norm": [1, 2, 5],
        "direction_update_norm": [1, 2, 5],
        "update_cosine": [2, 5],
        "relative_acceleration": [2, 5],
        "spectral_radius": [2, 4],
        "perturbation_recovery": [2, 4],
    }
    radii = [row for row in rows if row["metric"] == "spectral_radius"]
    assert [row["n_samples"] for row in radii] == [3, 3]
    assert [row["value"] for row in radii] == pytest.approx([abs(0.78 + 0.66j)] * 2, rel=2e-3)
    assert rows == diagnose(model, batch_of(6), [1, 2, 5], stability_exits=[2, 4], samples=3)


def test_diagnose_names_the_items_for_which_a_metric_is_undefined():
    beginnings = np.ones((4, 4, 4))
    beginnings[0] = 0.0  # a state of zero that stays there has no relative update
    model = linear_model(lambda batch: LinearMap(0.5 * np.eye(16), beginnings))
    with np.errstate(invalid="ignore"):
        rows = {row["metric"]: row for row in diagnose(model, batch_of(4), [2], stability_exits=())}
    assert rows["relative_update_norm"]["value"] == pytest.approx(1.0)
    assert rows["relative_update_norm"]["n_samples"] == 3
    assert rows["relative_update_norm"]["reason"].startswith("1 of 4 items left out")


def test_an_untrained_adaln_zero_network_is_the_identity_to_every_diagnostic():
    run = Run("elt", "diffusion", "digits", architecture=Architecture(width=16, heads=2))
    made = parts(run)
    model = Model(run, build_engine(run, made), made)
    (batch,) = made.task.heldout(made.dataset.heldout().select(slice(3)), model.spec, np.random.default_rng(0), 1)
    rows = {row["metric"]: row for row in diagnose(model, batch, [2])}
    expected = {
        "relative_update_norm": 0,
        "direction_update_norm": 0,
        "relative_acceleration": 0,
        "spectral_radius": 1,
        "perturbation_recovery": 1,
    }
    assert {metric: rows[metric]["value"] for metric in expected} == pytest.approx(expected)
    assert np.isnan(rows["update_cosine"]["value"])
    assert rows["update_cosine"]["n_samples"] == 0
    assert rows["update_cosine"]["reason"].startswith("3 of 3 items left out")


def test_a_unique_depth_network_has_no_loops_to_diagnose():
    fields = {"trainer": "unique-depth", "architecture": Architecture(max_loops=1)}
    model = linear_model(lambda batch: LinearMap(np.eye(16), np.ones((len(batch.labels), 4, 4))), **fields)
    assert diagnose(model, batch_of(2), [1]) == []
    assert update_norms_by_noise(model, model.dataset.heldout().select(slice(4))) == []
    with pytest.raises(ValueError, match="unique-depth"):
        diagnose(model, batch_of(2), [2])


class NoisyGrowth(LinearMap):
    """A map that multiplies item b's state by 1 + (L - 1)·noise_b in loop L: its relative update is known."""

    def __init__(self, noise):
        self.initial, self.noise = np.ones((len(noise), 2, 4)), noise.reshape(-1, 1, 1)

    def loop(self, state, index):
        return state * (1 + (index - 1) * self.noise)


@pytest.mark.parametrize(
    ("task", "dataset", "noise"),
    [
        ("diffusion", "digits", lambda batch: 1 / (1 + np.exp(batch.log_snr.astype(np.float64)))),
        ("masked", "digits-codes", lambda batch: batch.weight.mean(axis=1, dtype=np.float64)),
    ],
)
def test_update_norms_are_averaged_over_late_loops_in_quarters_from_clean_to_noisy(task, dataset, noise):
    seen = []

    def make(batch):
        seen.append(noise(batch))
        return NoisyGrowth(seen[-1])

    model = linear_model(make, task=task, dataset=dataset, architecture=Architecture(max_loops=5))
    rows = update_norms_by_noise(model, model.dataset.heldout().select(slice(50)))
    assert [row["stratum"] for row in rows] == [0, 1, 2, 3]
    assert {(row["loops"], row["metric"], row["n_samples"]) for row in rows} == {(5, "late_update_norm", 50)}
    for quarter, (row, level) in enumerate(zip(rows, seen, strict=True)):
        late = [(loop - 1) * level / (1 + (loop - 1) * level) for loop in (3, 4, 5)]
        assert row["value"] == pytest.approx(np.mean(late))
        if quarter:
            assert level.min() >= seen[quarter - 1].max()  # the quarters do not overlap


def test_a_world_that_hides_its_own_tokens_has_no_quarters_of_noise():
    model = linear_model(lambda batch: NoisyGrowth(np.ones(4)), task="masked", dataset="relay")
    assert update_norms_by_noise(model, model.dataset.heldout().select(slice(4))) == []


class Stretch(LinearMap):
    """An identity map whose Jacobian at item b, state s and loop L is claimed to be 100·label_b + 10·L + s times it."""

    def __init__(self, batch):
        labels = np.asarray(batch.labels, np.float64)
        self.initial, self.labels = np.ones((len(labels), 2, 4)) * (1 + labels).reshape(-1, 1, 1), labels

    def loop(self, state, index):
        return state

    def jacobian(self, state, index):
        (label,) = self.labels
        return lambda vector: vector * (100 * label + 10 * index + state)


def test_spectral_radius_is_of_the_next_loop_at_each_items_own_state_and_condition():
    labels = np.array([0, 3, 8], np.int32)
    model = linear_model(Stretch)
    rows = diagnose(model, batch_of(3)._replace(labels=labels), [1], stability_exits=[4], samples=3)
    (radius,) = [row for row in rows if row["metric"] == "spectral_radius"]
    assert radius["value"] == pytest.approx(np.mean(100 * labels + 10 * 5 + (1 + labels)))
