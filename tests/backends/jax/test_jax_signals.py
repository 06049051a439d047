"""Signals of uncertainty measured on JAX arrays."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from eltbench.evaluation.signals.exit_trace import Trace
from eltbench.evaluation.signals.uncertainty import measure
from eltbench.tasks.base import ExitOutput


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_quickly")
def test_jax_measures_what_numpy_measures():
    rng = np.random.default_rng(0)
    logits, states = rng.standard_normal((3, 2, 5, 4)), rng.standard_normal((4, 2, 5, 8))
    hidden = np.array([[True, False, True, True, False], [False, True, False, False, False]])
    measured = []
    for make in (np.asarray, lambda array: jnp.asarray(array, jnp.float32)):
        trace = Trace("tokens", hidden=hidden, level=hidden.mean(1), initial=make(states[0]))
        for exit in range(3):
            trace.append(exit + 1, ExitOutput(make(logits[exit]), make(states[exit + 1])))
        measured.append(measure(trace))
        measured.append(measure(trace.select(np.array([False, True]))))
    ours, ours_selected, theirs, theirs_selected = measured
    assert len(ours) == 17
    for name, values in ours.items():
        np.testing.assert_allclose(theirs[name], values, rtol=2e-4, atol=2e-6, err_msg=name)
        np.testing.assert_allclose(theirs_selected[name], ours_selected[name], rtol=2e-4, atol=2e-6, err_msg=name)
