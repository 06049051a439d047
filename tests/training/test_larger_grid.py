"""The weights of one grid on a larger one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from eltbench import data
from eltbench.core.config import Architecture, Optimisation, Run
from eltbench.data.base import Clean
from eltbench.evaluation.solving import solved
from eltbench.training.identity import run_id
from eltbench.training.loop import fit
from eltbench.training.model import Model, load_model

SMALL, LARGE = {"rooms": 3, "longest": 4, "furthest": 6}, {"rooms": 5, "longest": 8, "furthest": 12}
RUN = Run(
    "elt",
    "masked",
    "maze",
    dataset_options=tuple(SMALL.items()),
    architecture=Architecture(
        max_loops=2, width=16, heads=2, block="bert", positions="rotary", attention_radius=1, prelude=1, coda=1
    ),
    optimisation=Optimisation(steps=2, batch_size=4, learning_rate=1e-2, warmup_steps=1, ema_decay=0.5),
)


@pytest.fixture(scope="module", params=["torch", pytest.param("jax", marks=pytest.mark.slow)])
def model(request, tmp_path_factory) -> Model:
    """Two steps on mazes of 7×7 cells."""
    folder = tmp_path_factory.mktemp(request.param)
    fit(replace(RUN, backend=request.param), folder)
    return load_model(folder)


def corridors(model: Model, side: int, row: int, column: int) -> np.ndarray:
    """Logits (side, side, 2) for a field of `side`² free cells but for a patch of 7×7 random ones at a place."""
    context = np.ones((1, side, side), np.int32)
    context[0, row : row + 7, column : column + 7] = np.random.default_rng(0).integers(4, size=(7, 7))
    hidden = np.full((1, side**2), 2, np.int32)
    return model.predict(hidden, context=context.reshape(1, -1), exits=(1,))[0].reshape(side, side, 2)


def test_a_model_of_small_mazes_is_asked_for_larger_ones(model):
    wide = model.on(data.create("maze", **LARGE))
    assert (wide.spec.grid, model.spec.grid) == ((11, 11), (7, 7))
    clean = wide.dataset.heldout().select(slice(8))
    right = solved(wide, clean, (1, 2, 4))
    assert right.shape == (3, 8)
    spotless = Clean(np.zeros((2, 121), np.int32), np.zeros(2, np.int32), clean.context[:2], clean.hidden[:2])
    filled = wide.sample(spotless.labels, 2, given=spotless, steps=2)
    assert set(np.unique(filled)) <= {0, 1}
    assert wide.run_id == model.run_id == run_id(model.run)
    assert wide.engine.parameter_count() == model.engine.parameter_count()


def test_a_pattern_that_moves_on_the_larger_grid_moves_its_answer(model):
    """Radius 1, prelude, two layers once, and coda: 4 cells beyond the pattern all is as it was without it."""
    wide = model.on(data.create("maze", rooms=9, longest=8, furthest=12))  # 19×19 cells
    here, there = corridors(wide, 19, 5, 6), corridors(wide, 19, 6, 5)
    np.testing.assert_allclose(here[5:12, 6:13], there[6:13, 5:12], atol=1e-5)
    assert np.ptp(here[5:12, 6:13]) > 1e-3


def test_the_grid_of_the_training_gives_what_the_model_gives(model):
    again = model.on(model.dataset)
    clean = model.dataset.heldout().select(slice(4))
    inputs = np.where(clean.hidden, 2, clean.values)
    same, expected = (each.predict(inputs, context=clean.context, exits=(1, 2)) for each in (again, model))
    assert all(map(np.array_equal, same, expected))


def test_data_of_another_form_are_refused(model):
    with pytest.raises(ValueError, match=r"on: a model of data of the form .* another grid alone, given .*continuous"):
        model.on(data.create("digits"))
