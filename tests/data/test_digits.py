"""The digits: one fixed split in three forms."""

import hashlib

import numpy as np
import pytest
from sklearn.datasets import load_digits

from eltbench import data
from eltbench.data.tokenizers import PatchCodebook

FORMS = ["digits", "digits-codes", "digits-levels"]


def test_the_split_divides_all_images_once():
    pixels = data.create("digits")
    both = np.concatenate([pixels.training().values, pixels.heldout().values])
    assert (len(pixels.training().labels), len(pixels.heldout().labels)) == (1440, 357)
    everything = load_digits().images.reshape(1797, -1)
    assert np.array_equal(_sorted_rows((both + 1) * 8), _sorted_rows(everything))


def test_the_split_is_stratified():
    labels = np.bincount(load_digits().target)
    heldout = np.bincount(data.create("digits").heldout().labels)
    assert np.abs(heldout - labels * 357 / 1797).max() < 1


def test_the_split_is_the_one_that_published_results_used():
    heldout = data.create("digits-levels").heldout()
    digest = hashlib.sha256(heldout.values.astype("u1").tobytes() + heldout.labels.astype("u1").tobytes())
    assert digest.hexdigest()[:16] == "3e33a18f66415092"


@pytest.mark.parametrize("name", FORMS)
def test_items_have_the_form_that_the_spec_declares(name):
    world = data.create(name)
    spec = world.spec
    for clean in (world.training(), world.heldout(), world.batch(np.random.default_rng(0), 7)):
        assert clean.labels.dtype == np.int32
        assert set(np.unique(clean.labels)) <= set(range(spec.classes))
        assert clean.context is None
        assert clean.hidden is None
        if spec.kind == "continuous":
            assert clean.values.shape == (len(clean.labels), *spec.grid, spec.channels)
            assert clean.values.dtype == np.float32
            assert clean.values.min() == -1
            assert clean.values.max() == 1
        else:
            assert clean.values.shape == (len(clean.labels), spec.tokens)
            assert clean.values.dtype == np.int32
            assert clean.values.min() >= 0
            assert clean.values.max() < spec.vocabulary


def test_grey_levels_lose_nothing():
    pixels, levels = data.create("digits"), data.create("digits-levels")
    assert np.array_equal(levels.images(levels.heldout().values), pixels.heldout().values)
    assert np.array_equal(levels.heldout().values, _raw_levels(pixels.heldout().values))


@pytest.mark.parametrize("name", FORMS)
def test_every_form_holds_the_same_items_in_the_same_order(name):
    world, pixels = data.create(name), data.create("digits")
    assert np.array_equal(world.heldout().labels, pixels.heldout().labels)
    decoded, original = world.images(world.heldout().values), pixels.heldout().values
    assert decoded.shape == original.shape
    assert decoded.dtype == np.float32
    distance = ((decoded[:, None] - original[None]) ** 2).sum((2, 3, 4))
    assert np.array_equal(distance.argmin(1), np.arange(len(original)))


@pytest.mark.parametrize("codes", [16, 64])
def test_codes_come_from_the_training_split_alone(codes):
    world = data.create("digits-codes", codes=codes)
    fitted = PatchCodebook.fit(data.create("digits").training().values, codes)
    assert np.array_equal(world.codebook.codes, fitted.codes)
    assert np.array_equal(world.heldout().values, fitted.encode(data.create("digits").heldout().values))
    assert world.spec.vocabulary == codes


@pytest.mark.parametrize("name", FORMS)
def test_a_batch_depends_on_its_stream_alone(name):
    world = data.create(name)
    first, again, other = (world.batch(np.random.default_rng(seed), 64) for seed in (1, 1, 2))
    assert np.array_equal(first.values, again.values)
    assert np.array_equal(first.labels, again.labels)
    assert not np.array_equal(first.values, other.values)


def test_all_forms_draw_the_same_items_from_one_stream():
    pixels, levels = (data.create(name).batch(np.random.default_rng(3), 64) for name in ("digits", "digits-levels"))
    assert np.array_equal(data.create("digits-levels").images(levels.values), pixels.values)
    assert np.array_equal(levels.labels, pixels.labels)


def test_a_batch_is_drawn_with_replacement_from_the_training_split():
    world = data.create("digits-levels")
    members = {row.tobytes() for row in world.training().values}
    drawn = {row.tobytes() for row in world.batch(np.random.default_rng(0), 1440).values}
    assert drawn <= members
    # distinct items among n draws of n: mean n(1 - 1/e) = 910.3, standard deviation sqrt(n(1/e - 2/e^2)) = 11.8
    assert abs(len(drawn) - 910.3) < 4 * 11.8


@pytest.mark.parametrize("name", FORMS)
def test_a_caller_cannot_change_the_world(name):
    world = data.create(name)
    before = world.training().values.copy()
    world.training().values[:] = 0
    world.heldout().labels[:] = 0
    assert np.array_equal(world.training().values, before)
    assert world.heldout().labels.any()


@pytest.mark.parametrize("name", ["digits-codes", "digits-levels"])
def test_masked_tokens_are_drawn_mid_grey(name):
    world = data.create(name)
    masked = np.full((2, world.spec.tokens), world.spec.vocabulary)
    assert np.array_equal(world.images(masked), np.zeros((2, 8, 8, 1)))


@pytest.mark.parametrize("codes", [0, -1, 2.5, "64"])
def test_an_impossible_number_of_codes_is_refused(codes):
    with pytest.raises(ValueError, match=rf"codes .*{codes!r}"):
        data.create("digits-codes", codes=codes)


def test_more_codes_than_distinct_patches_are_refused():
    with pytest.raises(ValueError, match=r"codes must be in 1\.\.\d+ \(distinct patches\), given 50000"):
        data.create("digits-codes", codes=50_000).training()


def _sorted_rows(images):
    rows = images.reshape(len(images), -1)
    return rows[np.lexsort(rows.T)]


def _raw_levels(images):
    """The grey levels in scikit-learn's file of these images, found by matching rather than by arithmetic."""
    raw = load_digits().images.reshape(1797, -1).astype(int)
    by_image = {(image / 8 - 1).astype(np.float32).tobytes(): image for image in raw}
    return np.array([by_image[image.tobytes()] for image in images])
