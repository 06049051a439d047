"""What is timed in JAX: a loop and its unrolled form give one prediction, and what torch alone times is refused."""

from __future__ import annotations

import numpy as np
import pytest

from eltbench.accounting import NetworkSpec
from eltbench.backends.jax.speed import JaxSpeed
from eltbench.backends.speed import Body
from eltbench.core.config import Architecture
from eltbench.data.base import DataSpec

TOKENS = DataSpec("tokens", (4, 4), vocabulary=8, classes=3)
BODY = Body(
    NetworkSpec(Architecture(1, 3, width=16, heads=2, block="bert"), "looped", TOKENS, False),
    3,
    2,
    "fp32",
    "scan",
)


@pytest.mark.slow
def test_the_loop_and_its_unrolled_form_give_one_prediction():
    made = JaxSpeed("cpu", 1)
    scanned, unrolled = (np.asarray(made.call(BODY._replace(mode=mode))()) for mode in made.modes)
    assert scanned.shape == (2, 16, 8)
    assert scanned.std() > 0
    np.testing.assert_allclose(scanned, unrolled, atol=1e-5)
    state = made.blocks(BODY)()
    made.wait(state)
    assert state.shape == (2, 17, 16)  # a prefix token carries the condition


def test_what_jax_does_not_time_is_refused():
    made = JaxSpeed("cpu", 1)
    with pytest.raises(ValueError, match="modes scan, unrolled, given 'eager'"):
        made.call(BODY._replace(mode="eager"))
    with pytest.raises(ValueError, match="moves what does not depend on the loop out of it"):
        made.unhoisted(BODY)
