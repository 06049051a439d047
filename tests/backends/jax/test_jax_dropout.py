"""With the same masks the backends drop the same, and train alike."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from two_backends import pair_of, relative, small_run

from eltbench.training.loop import draw

pytestmark = pytest.mark.usefixtures("compiled_quickly")

SLOW = pytest.mark.slow
CASES = [
    pytest.param("elt", "diffusion", {"block": "dit", "unique_layers": 2}, id="elt"),
    pytest.param("universal-transformer", "masked", {"block": "bert", "norm": "sandwich"}, id="universal"),
    pytest.param("deq", "diffusion", {"block": "dit"}, id="deq", marks=SLOW),
    pytest.param("elt", "diffusion", {"prelude": 1, "coda": 2, "positions": "rotary"}, id="prelude, coda, rotary"),
    pytest.param("deq", "masked", {"block": "bert", "norm": "post", "recall": "inside", "prelude": 1}, id="recall"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("trainer", "task", "shape"), CASES)
def test_the_same_masks_give_the_same_outputs_and_losses(trainer, task, shape, tmp_path):
    pair = pair_of(small_run(trainer, task, dropout=0.3, **shape), tmp_path)
    batch, exits = draw(pair.run, pair.made, 0)
    read = (1, 3, 5)
    ours, theirs = (
        [engine.numpy(output.prediction) for output in engine.predict(engine.upload(batch), read)]
        for engine in pair.engines
    )
    plain = pair.jax.predict(pair.jax.upload(batch._replace(dropped=None)), read)
    for left, right, without in zip(ours, theirs, plain, strict=True):
        assert relative(left, right) < 1e-5
        assert relative(left, np.asarray(without.prediction)) > 1e-3
    expected, found = (engine.step(batch, exits, 0.3, 1e-3) for engine in pair.engines)
    for name, value in expected.items():  # the norm of the gradient is among them
        assert float(found[name]) == pytest.approx(float(value), rel=1e-4)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(pair.jax.state.network))
