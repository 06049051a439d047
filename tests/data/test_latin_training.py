"""Latin squares can be learned in either backend: the held-out loss falls towards the posterior's entropy."""

from dataclasses import replace

import numpy as np
import pytest

from eltbench.core.config import Architecture, Optimisation, Run
from eltbench.data import latin
from eltbench.evaluation.heldout import evaluate
from eltbench.evaluation.signals.per_sample import loss_apart
from eltbench.training.loop import fit, parts
from eltbench.training.model import Model

RUN = Run(
    "elt",
    "masked",
    "latin",
    architecture=Architecture(unique_layers=1, max_loops=2, width=16, heads=2, block="bert"),
    optimisation=Optimisation(steps=30, batch_size=32, learning_rate=1e-2, warmup_steps=2, ema_decay=0.8),
)


@pytest.mark.parametrize("backend", ["torch", pytest.param("jax", marks=pytest.mark.slow)])
def test_training_lowers_the_heldout_excess_over_bayes(backend, tmp_path):
    run = replace(RUN, backend=backend)
    made = parts(run)
    model = Model(run, fit(run, tmp_path), made)
    (batch,) = made.task.heldout(made.dataset.heldout(), model.spec, np.random.default_rng(0), 1)
    hidden = batch.weight > 0
    predictions = [np.zeros((*batch.inputs.shape, 4)), *model.predict(batch.inputs, exits=(1, 2))]
    exact = latin.posterior(batch.inputs)
    guessing, *trained = [loss_apart(exact, logits)[0][hidden].mean() for logits in predictions]
    assert max(trained) < guessing
    losses = evaluate(model, [1, 2], draws=1).losses
    assert (losses < np.log(4)).all()
