"""What is asked of a model has the form of its data, or is refused."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from trained_runs import OPTIMISATION, RUNS, every_looped_model

from eltbench.evaluation.stopping.anytime import anytime
from eltbench.training.identity import run_id
from eltbench.training.loop import build_engine, parts
from eltbench.training.model import Model, load_model

ASKED = {"inputs": np.zeros((4, 8, 8, 1), np.float32), "labels": np.arange(4), "log_snr": 0.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": [1, 2, 3, 11]}, r"labels must be 0\.\.10 \(10 classes, then the null label\), given 1\.\.11"),
        ({"labels": [0, 0, 0, 2**32]}, r"given 0\.\.4294967296"),
        ({"labels": [0, 0, 0, -1]}, r"given -1\.\.0"),
        ({"labels": [0, 0, 0, 0.9]}, r"must be whole numbers, given 0\.9"),
        ({"labels": np.zeros((4, 1), int)}, r"labels: expected shape \(4,\), given \(4, 1\)"),
        ({"labels": np.zeros(16, int)}, r"labels: expected shape \(4,\), given \(16,\)"),
        ({"inputs": np.zeros((4, 8, 8, 1), np.uint8)}, "inputs: expected floating values.*given uint8"),
        ({"inputs": np.full((4, 8, 8, 1), np.nan)}, "256 of 256 values are not finite"),
        ({"inputs": np.full((4, 8, 8, 1), 1e300)}, "256 of 256 values are not finite"),
        ({"inputs": np.zeros((4, 8, 9, 1))}, r"expected shape \(4, 8, 8, 1\), given \(4, 8, 9, 1\)"),
        ({"inputs": np.zeros((4, 64))}, r"expected shape \(4, 8, 8, 1\)"),
        ({"inputs": np.zeros((0, 8, 8, 1))}, "one item or more"),
        ({"log_snr": np.nan}, "1 of 1 values are not finite"),
        ({"log_snr": [0.0, 0.0, np.inf, 0.0]}, "1 of 4 values are not finite"),
        ({"log_snr": [0.0]}, r"log_snr: expected shape \(4,\), given \(1,\)"),
        ({"log_snr": np.zeros((4, 1))}, r"log_snr: expected shape \(4,\), given \(4, 1\)"),
        ({"context": np.zeros((4, 16), int)}, "no context tokens"),
    ],
)
def test_arrays_that_have_not_the_form_of_the_data_are_refused(model, changes, message):
    for ask in (model.predict, partial(anytime, model)):
        with pytest.raises(ValueError, match=f"^predict: .*{message}"):
            ask(**{**ASKED, **changes}, exits=(1,))


@pytest.mark.parametrize("model", ["masked"], indirect=True)
@pytest.mark.parametrize("token", [-1, 65, 2**32, 0.5])
def test_tokens_beyond_the_vocabulary_and_its_mask_are_refused(model, token):
    with pytest.raises(ValueError, match=r"^predict: inputs must be"):
        model.predict(np.full((1, 16), token), exits=(1,))


@every_looped_model
@pytest.mark.parametrize("labels", [[12], [-1], [0.5], [2**32], [[0]], [], 0])
def test_samples_of_labels_that_are_no_class_are_refused(model, labels):
    with pytest.raises(ValueError, match=r"^sample: labels"):
        model.sample(labels, loops=1, steps=1)


def test_guidance_takes_a_model_that_saw_labels_and_none(store):
    relay = load_model(run_id(RUNS["relay"]), runs=store)
    given = relay.dataset.heldout().select(slice(2))
    never = replace(RUNS["diffusion"], optimisation=replace(OPTIMISATION, label_dropout=0.0))
    for model, known in ((relay, {"given": given}), (Model(never, build_engine(never), parts(never)), {})):
        with pytest.raises(ValueError, match=r"guidance_scale is 2, which takes a model that was trained with and"):
            model.sample([0, 0], loops=1, steps=1, guidance_scale=2.0, **known)
        assert len(model.sample([0, 0], loops=1, steps=1, **known)) == 2


def test_a_world_with_context_is_not_sampled_without(store):
    relay = load_model(run_id(RUNS["relay"]), runs=store)
    given = relay.dataset.heldout().select(slice(3))
    with pytest.raises(ValueError, match=r"^sample: this world needs context"):
        relay.sample(given.labels, loops=1)
    with pytest.raises(ValueError, match=r"^sample: given: values: expected shape \(2, 16\), given \(3, 16\)"):
        relay.sample(given.labels[:2], loops=1, given=given)


@pytest.mark.parametrize("exits", [(2.9,), "12", 4, (True,), (1, 2.0), None, (np.nan,)])
def test_exits_are_a_list_of_whole_numbers(model, exits):
    with pytest.raises(ValueError, match=r"^exits: give loop counts such as \(1, 2, 4\), given"):
        model.predict(np.zeros((1, 8, 8, 1)), log_snr=0.0, exits=exits)


def test_exits_may_be_an_array(model):
    assert len(model.predict(np.zeros((1, 8, 8, 1)), log_snr=0.0, exits=np.arange(1, 3))) == 2


@pytest.mark.parametrize("passes", [True, 1.5])
def test_passes_with_dropout_are_a_whole_number(model, passes):
    with pytest.raises(ValueError, match="dropout_passes must be 0 or more"):
        model.predict(np.zeros((1, 8, 8, 1)), log_snr=0.0, exits=(1,), dropout_passes=passes)
