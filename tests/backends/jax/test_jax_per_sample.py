"""The per-sample table of the study disagreement is the same in both backends, from the same weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from two_backends import pair_of, small_run

from eltbench.evaluation.signals.per_sample import observe
from eltbench.training.model import Model


@pytest.mark.slow
@pytest.mark.parametrize(("trainer", "task"), [("universal-transformer", "masked"), ("elt", "diffusion")])
def test_errors_and_signals_of_every_item_and_exit_are_those_of_the_other_backend(trainer, task, tmp_path):
    run = small_run(trainer, task, block="bert" if task == "masked" else "dit")
    if task == "masked":
        run = replace(run, dataset_options=(*run.dataset_options, ("heldout_items", 24)))
    pair = pair_of(run, tmp_path)
    models = [
        Model(replace(run, backend=name), engine, pair.made)
        for name, engine in zip(("torch", "jax"), pair.engines, strict=True)
    ]
    ours, theirs = (observe(model, (1, 2, 3), 1).table() for model in models)
    assert list(ours.columns) == list(theirs.columns)
    assert len(ours.columns) > 10
    for name in ours.columns:
        left, right = ours[name].to_numpy(float), theirs[name].to_numpy(float)
        assert np.array_equal(np.isnan(left), np.isnan(right)), name
        scale = np.nanmax(np.abs(left)) if np.isfinite(left).any() else 1.0
        np.testing.assert_allclose(right, left, rtol=0, atol=2e-4 * max(scale, 1e-6), err_msg=name)
