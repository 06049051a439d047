"""Two independent implementations agree: the same weights give the same outputs, losses and gradients."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import torch
from two_backends import CASES, pair_of, relative, small_run

from eltbench.backends.jax.engine import objective
from eltbench.backends.jax.initialisation import named
from eltbench.core.streams import stream
from eltbench.trainers.exits import passes

pytestmark = pytest.mark.usefixtures("compiled_quickly")

OPTIONS = {
    "sandwich": ("bert", "masked", {"norm": "sandwich", "unique_layers": 2}),
    "sandwich-dit": ("dit", "diffusion", {"norm": "sandwich"}),
    "post": ("bert", "masked", {"norm": "post", "unique_layers": 2}),
    "residual scale": ("bert", "masked", {"residual_scale": "loops", "unique_layers": 2}),
    "residual scale of a dit": ("dit", "diffusion", {"residual_scale": "layers", "residual_strength": 0.5}),
    "post-norm, scaled": ("bert", "diffusion", {"norm": "post", "residual_scale": "loops", "dropout": 0.1}),
    "loop norm": ("bert", "masked", {"loop_norm": True, "input_injection": True}),
    "loop norm of a dit": ("dit", "diffusion", {"loop_norm": True}),
    "injection": ("dit", "masked", {"input_injection": True}),
    "loop embedding": ("dit", "diffusion", {"loop_embedding": True}),
    "loop conditioning": ("bert", "diffusion", {"loop_conditioning": True}),
    "loop conditioning of a dit": ("dit", "masked", {"loop_conditioning": True, "unique_layers": 2}),
    "radius": ("bert", "diffusion", {"attention_radius": 1}),
    "loop adapters": ("bert", "masked", {"loop_adapter_rank": 2, "unique_layers": 2}),
    "loop adapters of a dit": ("dit", "diffusion", {"loop_adapter_rank": 3}),
    "prelude and coda": ("bert", "masked", {"prelude": 2, "coda": 1, "residual_scale": "loops", "attention_radius": 2}),
    "prelude and coda of a dit": ("dit", "diffusion", {"prelude": 1, "coda": 2, "input_injection": True}),
    "recall inside": ("bert", "diffusion", {"input_injection": True, "recall": "inside", "norm": "post"}),
    "recall inside a bert": ("bert", "masked", {"input_injection": True, "recall": "inside", "unique_layers": 2}),
    "recall inside a dit": ("dit", "masked", {"input_injection": True, "recall": "inside", "loop_conditioning": True}),
    "rotary": ("bert", "diffusion", {"positions": "rotary", "loop_adapter_rank": 1}),
    "rotary dit": ("dit", "masked", {"positions": "rotary", "attention_radius": 1, "prelude": 1}),
    "all": (
        "bert",
        "masked",
        {
            "norm": "sandwich",
            "input_injection": True,
            "recall": "inside",
            "attention_radius": 1,
            "loop_adapter_rank": 1,
            "prelude": 1,
            "coda": 1,
            "positions": "rotary",
        },
    ),
}
HALTING = {"ponder": "universal-transformer", "unhalted": "universal-transformer", "halting": "trm"}


def assert_same_outputs(pair):
    exits = (1,) if pair.run.trainer == "unique-depth" else (1, 2, 3, 5)  # beyond max_loops too
    for ours, theirs in pair.predictions(exits, ("prediction", "state", *HALTING)):
        for field, trainer in enumerate(HALTING.values(), 2):
            assert (ours[field] is None) == (theirs[field] is None) == (pair.run.trainer != trainer)
        for left, right in zip(ours, theirs, strict=True):
            assert left is None or relative(left, right) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(("trainer", "task", "block"), CASES[4:])
def test_the_same_weights_give_the_same_outputs_at_every_exit(trainer, task, block, tmp_path):
    assert_same_outputs(pair_of(small_run(trainer, task, block=block), tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_of_the_architecture_means_the_same(option, tmp_path):
    block, task, options = OPTIONS[option]
    trainer = "universal-transformer" if option == "all" else "elt"
    assert_same_outputs(pair_of(small_run(trainer, task, block=block, **options), tmp_path))


@pytest.mark.slow
def test_labels_and_codes_mean_the_same(tmp_path):
    assert_same_outputs(pair_of(small_run("elt", "masked", "digits-codes", block="bert"), tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(("trainer", "task", "block"), CASES)
def test_each_objective_has_the_same_loss_and_gradients(trainer, task, block, tmp_path):
    pair = pair_of(small_run(trainer, task, block=block), tmp_path)
    exits = pair.made.trainer.exits(pair.run.architecture, stream("exits", 0, "exits"))
    ours = pair.torch
    batch = ours.upload(pair.batch())
    outputs = [
        output
        for read, since in passes(exits)
        for output in ours.network(*batch.given, read, ours.trainer.fields, None, since)
    ]
    terms = ours.trainer.objective(outputs, batch, 0.3, ours.task, ours.ops)
    torch.stack(list(terms.values())).sum().backward()

    engine = pair.jax
    differentiated = jax.jit(jax.value_and_grad(objective, has_aux=True), static_argnums=1)
    batch = engine.upload(pair.batch())
    (_, there), gradient = differentiated(
        engine.state.network, engine.recipe, batch, engine.recipe.passes(exits), np.float32(0.3)
    )
    assert set(terms) == set(there)
    for name, term in terms.items():
        assert float(there[name]) == pytest.approx(term.item(), rel=1e-4)
    gradients = {
        name: np.zeros(parameter.shape) if parameter.grad is None else parameter.grad.numpy()
        for name, parameter in ours.network.named_parameters()
    }
    largest = max(np.abs(slope).max() for slope in gradients.values())
    for name, slope in named(gradient).items():
        assert np.abs(np.asarray(slope) - gradients[name]).max() < 1e-4 * largest, name
        if np.abs(gradients[name]).max() > 1e-3 * largest:
            assert relative(gradients[name], np.asarray(slope)) < 1e-4, name
