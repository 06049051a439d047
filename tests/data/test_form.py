"""Arrays that have not the form of the data are refused where they come in, with what was given and what is allowed."""

import re
from dataclasses import replace

import numpy as np
import pytest

from eltbench import data, tasks
from eltbench.data import form
from eltbench.data.base import Clean, DataSpec

PIXELS = DataSpec("continuous", (2, 2), channels=1, classes=3)
TOKENS = DataSpec("tokens", (2, 2), vocabulary=5, classes=3)
SEEN = DataSpec("tokens", (2, 2), vocabulary=5, context_vocabulary=4)
LABELS = np.array([0, 2], np.int32)
VALUES = np.zeros((2, 2, 2, 1), np.float32)
SYMBOLS = np.array([[0, 1, 2, 3], [4, 4, 4, 4]], np.int32)
HIDDEN = np.array([[True, False, False, False], [False] * 4])


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["digits", "digits-codes", "digits-levels", "group", "latin", "maze", "relay", "sudoku"]
)
def test_what_the_package_s_own_datasets_give_has_their_form(name):
    world = data.create(name)
    form.check_splits(world)
    form.check_clean(world.batch(np.random.default_rng(0), 3), world.spec, name, 3)


@pytest.mark.parametrize(
    ("clean", "spec", "message"),
    [
        (Clean(VALUES, LABELS + 1), PIXELS, r"labels must be 0\.\.2 \(3 classes, counted from 0\), given 1\.\.3"),
        (Clean(VALUES, LABELS - 1), PIXELS, r"labels must be 0\.\.2 .* given -1\.\.1"),
        (Clean(VALUES, np.array([0, 2**32])), PIXELS, r"given 0\.\.4294967296"),
        (Clean(VALUES, np.array([0.0, 0.9])), PIXELS, "labels: expected integers, given float64"),
        (Clean(VALUES, np.array([True, False])), PIXELS, "labels: expected integers, given bool"),
        (Clean(VALUES, LABELS[:, None]), PIXELS, r"labels: expected shape \(2,\), given \(2, 1\)"),
        (
            Clean(VALUES, np.zeros(16, np.int32)),
            PIXELS,
            r"values: expected shape \(16, 2, 2, 1\)",
        ),
        (Clean(VALUES.astype(np.uint8), LABELS), PIXELS, "values: expected floating values.*, given uint8"),
        (Clean(VALUES + 255, LABELS), PIXELS, r"values must lie in \[-1, 1\], given 255\.\.255"),
        (Clean(VALUES - 1.5, LABELS), PIXELS, r"values must lie in \[-1, 1\]"),
        (Clean(VALUES * np.nan, LABELS), PIXELS, "8 of 8 values are not finite"),
        (Clean(VALUES[:, :1], LABELS), PIXELS, r"expected shape \(2, 2, 2, 1\)"),
        (Clean(VALUES.repeat(3, axis=-1), LABELS), PIXELS, r"expected shape \(2, 2, 2, 1\)"),
        (Clean(SYMBOLS + 1, LABELS), TOKENS, r"values must be 0\.\.4 \(tokens\), given 1\.\.5"),
        (Clean(SYMBOLS - 1, LABELS), TOKENS, r"given -1\.\.3"),
        (Clean(SYMBOLS.reshape(2, 2, 2), LABELS), TOKENS, r"expected shape \(2, 4\), given \(2, 2, 2\)"),
        (Clean(SYMBOLS.astype(float), LABELS), TOKENS, "expected integers, given float64"),
        (Clean(SYMBOLS, LABELS, context=SYMBOLS), TOKENS, "the form has 0 context tokens, given context"),
        (Clean(SYMBOLS, LABELS, hidden=HIDDEN[:1]), TOKENS, r"hidden must be bool of shape \(2, 4\)"),
        (Clean(SYMBOLS, LABELS, hidden=HIDDEN.astype(int)), TOKENS, "hidden must be bool"),
        (Clean(SYMBOLS, LABELS, hidden=HIDDEN & False), TOKENS, "hides nothing in any of 2 items"),
        (Clean(SYMBOLS, LABELS * 0), SEEN, "the form has 4 context tokens, given no context"),
        (Clean(SYMBOLS, LABELS * 0, context=SYMBOLS), SEEN, r"context must be 0\.\.3 .* given 0\.\.4"),
        (Clean(SYMBOLS, LABELS, context=SYMBOLS % 4), SEEN, r"labels must be 0\.\.0 \(zeros: there are no classes\)"),
        ((VALUES, LABELS), PIXELS, r"expected eltbench.data.Clean\(values, labels\), given tuple"),
    ],
)
def test_items_of_a_dataset_that_have_not_its_form_are_refused(clean, spec, message):
    with pytest.raises(ValueError, match=f"^world, training items.*{message}"):
        form.check_clean(clean, spec, "world, training items")


def test_a_batch_has_the_number_of_items_that_was_asked_for():
    form.check_clean(Clean(VALUES, LABELS), PIXELS, "batch", 2)
    with pytest.raises(ValueError, match=r"expected shape \(3, 2, 2, 1\), given \(2, 2, 2, 1\)"):
        form.check_clean(Clean(VALUES, LABELS), PIXELS, "batch", 3)


def test_values_may_lie_beyond_one_by_rounding():
    form.check_clean(Clean(VALUES + 1 + 1e-6, LABELS), PIXELS, "world")


def test_an_item_that_hides_nothing_has_no_weight_and_no_error():
    task = tasks.create("masked")
    clean = Clean(SYMBOLS, LABELS, hidden=HIDDEN)
    form.check_clean(clean, TOKENS, "world")
    (batch,) = task.heldout(clean, TOKENS, np.random.default_rng(0), 1)
    output = tasks.base.ExitOutput(np.zeros((2, 4, 5), np.float32))
    errors = task.errors(output, batch, NumpyOps())
    assert np.allclose(errors, [np.log(5), 0])
    assert task.item_weights(batch).tolist() == [1, 0]
    assert np.isclose(task.loss(output, batch, NumpyOps()), np.log(5))


class NumpyOps:
    def cross_entropy(self, logits, targets):
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return -np.take_along_axis(log_p, targets[..., None], -1)[..., 0]


def test_the_null_label_and_the_mask_are_for_asking_alone():
    assert form.labels([0, 3], PIXELS, "predict").tolist() == [0, 3]
    assert form.inputs(np.full((1, 4), 5), TOKENS, "predict").tolist() == [[5] * 4]
    assert form.labels([0.0, 2.0], PIXELS, "predict").dtype == np.int32
    assert form.inputs(VALUES + 7.0, PIXELS, "predict").max() == 7  # noise goes beyond [-1, 1]
    assert form.noise_levels(1, "predict", 2).tolist() == [1, 1]


def test_what_a_sample_is_drawn_around_is_of_its_number_and_form():
    given = Clean(SYMBOLS, LABELS * 0, context=SYMBOLS % 4, hidden=HIDDEN)
    form.check_given(given, SEEN, "sample", 2)
    form.check_given(given._replace(values=np.where(HIDDEN, 5, SYMBOLS)), SEEN, "sample", 2)
    for wrong, message in (
        (None, "needs context"),
        (given._replace(values=SYMBOLS + 2), r"values must be 0\.\.5"),
        (given.select(slice(1)), r"expected shape \(2, 4\), given \(1, 4\)"),
        (given._replace(hidden=HIDDEN * 1), "hidden must be bool"),
        (given._replace(context=SYMBOLS), r"context must be 0\.\.3"),
    ):
        with pytest.raises(ValueError, match=f"^sample: .*{message}"):
            form.check_given(wrong, SEEN, "sample", 2)


@pytest.mark.parametrize("number", [5, 7])
def test_a_form_is_held_against_each_of_its_axes(number):
    wide = replace(PIXELS, grid=(2, number))
    with pytest.raises(ValueError, match=rf"expected shape \(2, 2, {number}, 1\)"):
        form.check_clean(Clean(VALUES, LABELS), wide, "world")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("colours", (2, 2)), "the kind of data must be 'continuous' or 'tokens', given 'colours'"),
        (("continuous", (4,)), "a grid has two sides (H, W), given (4,)"),
        (("continuous", (0, 4)), "continuous data: grid[0] must be a whole number of at least 1, given 0"),
        (("continuous", (4, 2.0)), "continuous data: grid[1] must be a whole number of at least 1, given 2.0"),
        (("continuous", (4, 4), 0), "continuous data: channels must be a whole number of at least 1, given 0"),
        (("tokens", (4, 4), 1, 0), "tokens data: vocabulary must be a whole number of at least 1, given 0"),
        (("tokens", (4, 4), 1, True), "tokens data: vocabulary must be a whole number of at least 1, given True"),
        (("continuous", (4, 4), 1, 0, -1), "continuous data: classes must be a whole number of at least 0, given -1"),
    ],
)
def test_a_form_that_no_data_can_have_is_refused(given, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        DataSpec(*given)
