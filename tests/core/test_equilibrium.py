"""The solver against closed forms, Krylov's theory and SciPy, and alike on every backend's arrays."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from scipy.optimize import anderson

from eltbench.core.fixed_point import LEAST_RIDGE, Solver

ITEMS, TOKENS, WIDTH = 3, 2, 4
DIMENSION = TOKENS * WIDTH
EXACT = 1e-15  # a ridge that does not show in double precision


def linear_maps(radius=0.9, seed=0):
    """Matrices (B, d, d) of a spectral radius, one an item, and constants (B, d)."""
    rng = np.random.default_rng(seed)
    matrices = rng.standard_normal((ITEMS, DIMENSION, DIMENSION))
    matrices *= radius / np.abs(np.linalg.eigvals(matrices)).max(axis=1)[:, None, None]
    return matrices, rng.standard_normal((ITEMS, DIMENSION))


def applied(matrices, constants, nonlinear=lambda x: x):
    def function(state):
        mapped = np.einsum("bij,bj->bi", matrices, state.reshape(len(state), -1)) + constants
        return nonlinear(mapped).reshape(state.shape)

    return function


def iterates(solver, function, start, loops):
    """z_0 … z_loops."""
    states, history = [start], solver.start(start)
    for index in range(1, loops + 1):
        state, history = solver.step(history, states[-1], function(states[-1]), index)
        states.append(state)
    return states


def start(seed=1):
    return np.random.default_rng(seed).standard_normal((ITEMS, TOKENS, WIDTH))


@pytest.mark.parametrize("radius", [0.5, 0.9, 3.0])
def test_a_linear_map_of_dimension_d_is_solved_in_d_plus_one_loops(radius):
    """Also where plain iteration diverges."""
    matrices, constants = linear_maps(radius)
    expected = np.linalg.solve(np.eye(DIMENSION) - matrices, constants[..., None])[..., 0]
    states = iterates(Solver(memory=DIMENSION, ridge=EXACT), applied(matrices, constants), start(), DIMENSION + 1)
    errors = [np.abs(state.reshape(ITEMS, -1) - expected).max() for state in states]
    assert errors[DIMENSION + 1] < 1e-6
    assert errors[DIMENSION] > 100 * errors[DIMENSION + 1]


@pytest.mark.parametrize("loops", [1, 2, 5])
def test_on_a_linear_map_a_loop_maps_the_iterate_of_gmres(loops):
    """Walker and Ni 2011: z_{k+1} = f(x_k), where x_k has the least residual in z_0 + K_k."""
    matrices, constants = linear_maps()
    begun = start()
    after = iterates(Solver(memory=DIMENSION, ridge=EXACT), applied(matrices, constants), begun, loops + 1)[-1]
    for item in range(ITEMS):
        system = np.eye(DIMENSION) - matrices[item]
        origin = begun[item].ravel()
        residual = constants[item] - system @ origin
        krylov = np.stack([np.linalg.matrix_power(system, power) @ residual for power in range(loops)], axis=1)
        least = origin + krylov @ np.linalg.lstsq(system @ krylov, residual, rcond=None)[0]
        np.testing.assert_allclose(after[item].ravel(), matrices[item] @ least + constants[item], rtol=1e-5, atol=1e-6)


def test_it_finds_the_fixed_point_that_scipy_finds_and_needs_fewer_loops_than_plain_iteration():
    matrices, constants = linear_maps(1.5)
    function = applied(matrices, constants, np.tanh)
    found = anderson(lambda state: function(state) - state, np.zeros((ITEMS, TOKENS, WIDTH)), f_tol=1e-12)
    begun = np.zeros((ITEMS, TOKENS, WIDTH))
    errors = [np.abs(iterates(Solver(memory=memory), function, begun, 25)[-1] - found).max() for memory in (0, 5)]
    assert errors[1] < 1e-6 < errors[0] / 100


def test_plain_iteration_mixes_the_old_state_with_the_new():
    matrices, constants = linear_maps()
    function, begun = applied(matrices, constants), start()
    for mixing in (1.0, 0.3):
        expected = begun
        for state in iterates(Solver(mixing=mixing), function, begun, 4):
            np.testing.assert_allclose(state, expected, rtol=1e-12)
            expected = (1 - mixing) * expected + mixing * function(expected)


@pytest.mark.parametrize("memory", [0, 3])
def test_the_first_loop_is_plain(memory):
    matrices, constants = linear_maps()
    first = iterates(Solver(memory=memory, mixing=0.4), applied(matrices, constants), start(), 1)[1]
    np.testing.assert_allclose(first, 0.6 * start() + 0.4 * applied(matrices, constants)(start()), rtol=1e-12)


@pytest.mark.parametrize("memory", [0, 3])
def test_no_item_knows_of_the_others(memory):
    matrices, constants = linear_maps()
    together = iterates(Solver(memory=memory), applied(matrices, constants), start(), 6)[-1]
    for item in range(ITEMS):
        only = slice(item, item + 1)
        alone = iterates(Solver(memory=memory), applied(matrices[only], constants[only]), start()[only], 6)[-1]
        np.testing.assert_allclose(together[only], alone, rtol=1e-9)


@pytest.mark.parametrize("scale", [1e-12, 1e6])
def test_the_scale_of_the_state_does_not_matter(scale):
    matrices, constants = linear_maps()
    usual = iterates(Solver(memory=3), applied(matrices, constants), start(), 6)[-1]
    scaled = iterates(Solver(memory=3), applied(matrices, scale * constants), scale * start(), 6)[-1]
    np.testing.assert_allclose(scaled, scale * usual, rtol=1e-6)


def test_a_solution_once_found_is_kept_for_ever():
    """In single precision, where all differences are rounding at last, or nothing at all."""
    matrices, constants = (array.astype(np.float32) for array in linear_maps(0.5))
    states = iterates(Solver(memory=5), applied(matrices, constants), start().astype(np.float32), 200)
    assert states[-1].dtype == np.float32
    expected = np.linalg.solve(np.eye(DIMENSION) - matrices, constants[..., None])[..., 0]
    for state in states[30::10]:
        np.testing.assert_allclose(state.reshape(ITEMS, -1), expected, rtol=1e-4, atol=1e-5)
    constant = np.ones_like(states[0])
    for state in iterates(Solver(memory=5), lambda state: constant, constant, 8):
        assert np.array_equal(state, constant)


@pytest.mark.slow
@pytest.mark.parametrize("memory", [0, 1, 4])
@pytest.mark.parametrize("library", [torch.asarray, jnp.asarray], ids=["torch", "jax"])
def test_every_librarys_arrays_give_the_same_iterates(memory, library):
    matrices, constants = linear_maps()
    function, solver = applied(matrices, constants), Solver(memory=memory)
    expected = iterates(solver, function, start(), 6)[-1]
    theirs = iterates(
        solver,
        lambda state: library(function(np.asarray(state, np.float64)).astype(np.float32)),
        library(start().astype(np.float32)),
        6,
    )[-1]
    assert type(theirs) is type(library(start()))
    np.testing.assert_allclose(np.asarray(theirs), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("library", [torch.asarray, jnp.asarray], ids=["torch", "jax"])
def test_steps_in_one_direction_for_ever_and_values_that_are_none_raise_nothing(library):
    """All differences are parallel, as near a fixed point; and a diverged run is for its log to report."""
    begun = start().astype(np.float32)
    solver = Solver(memory=5, ridge=LEAST_RIDGE)
    for state in iterates(solver, lambda state: 0.9 * state, library(begun), 12)[1:]:
        assert np.isfinite(np.asarray(state)).all()
    assert np.abs(np.asarray(state)).max() < 1e-5
    assert np.isnan(np.asarray(iterates(solver, lambda state: state * np.nan, library(begun), 7)[-1])).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": -1}, "memory must be at least 0"),
        ({"mixing": 0.0}, r"mixing must be in \(0, 1\], given 0.0"),
        ({"mixing": 1.5}, r"mixing must be in \(0, 1\], given 1.5"),
        ({"ridge": 0.0}, r"ridge must be in \(0, 1\], given 0.0"),
        ({"ridge": float("nan")}, r"ridge must be in \(0, 1\], given nan"),
        ({"phantom_steps": 0}, "phantom_steps must be at least 1, given 0"),
        ({"damping": 2.0}, r"damping must be in \(0, 1\], given 2.0"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Solver(**options)
