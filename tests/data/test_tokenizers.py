"""The patch codebook."""

import os
import subprocess
import sys

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from eltbench import data
from eltbench.data.tokenizers import PatchCodebook, _patches

FINGERPRINT = """
import hashlib
from eltbench import data
for codes in (64, 256):
    world = data.create("digits-codes", codes=codes)
    print(hashlib.sha256(world.codebook.codes.tobytes() + world.training().values.tobytes()).hexdigest())
"""


def lost_variance(codebook: PatchCodebook, images: np.ndarray) -> float:
    """Share of the patches' variance about the mean patch that encoding loses."""
    patches, decoded = (
        _patches(each, codebook.patch)[0] for each in (images, codebook.decode(codebook.encode(images)))
    )
    return float(((patches - decoded) ** 2).sum() / ((patches - patches.mean(0)) ** 2).sum())


@pytest.fixture(scope="module")
def images():
    return data.create("digits").training().values


@pytest.fixture(scope="module")
def codebook():
    return data.create("digits-codes").codebook


@pytest.mark.parametrize(("codes", "percent"), [(64, 4), (256, 2)])
def test_the_codebook_loses_the_stated_share_of_the_variance_of_heldout_images(images, codes, percent):
    codebook, heldout = data.create("digits-codes", codes=codes).codebook, data.create("digits").heldout().values
    assert round(100 * lost_variance(codebook, heldout)) == percent
    assert lost_variance(codebook, images) < lost_variance(codebook, heldout)


@pytest.mark.slow
def test_the_codebook_does_not_depend_on_threads_or_processor():
    """Plain k-means fails this: its parallel sums and its matrix kernel break ties by rounding."""
    environments = [
        {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OPENBLAS_CORETYPE": "Haswell"},
        {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2", "OPENBLAS_CORETYPE": "Prescott"},
    ]
    command = [sys.executable, "-c", FINGERPRINT]
    processes = [subprocess.Popen(command, env=os.environ | extra, stdout=subprocess.PIPE) for extra in environments]
    first, second = (process.communicate(timeout=120)[0].split()[-2:] for process in processes)
    assert len(first) == 2
    assert first == second


def test_encoding_takes_the_nearest_code(codebook):
    images = np.random.default_rng(0).integers(0, 17, (50, 8, 8, 1)) / 8 - 1
    patches = np.array(
        [image[r : r + 2, c : c + 2].ravel() for image in images for r in range(0, 8, 2) for c in range(0, 8, 2)]
    )
    distance = cdist(patches, codebook.codes)
    chosen = distance[np.arange(len(patches)), codebook.encode(images).ravel()]
    np.testing.assert_allclose(chosen, distance.min(1), rtol=0, atol=1e-12)


def test_decoding_is_the_inverse_of_encoding_on_codes(codebook):
    tokens = np.random.default_rng(0).integers(0, 64, (20, 16))
    assert np.array_equal(codebook.encode(codebook.decode(tokens)), tokens)


def test_tokens_are_in_row_order_of_the_grid(codebook):
    blank, bright = codebook.encode(np.full((1, 8, 8, 1), -1.0)), np.full((1, 8, 8, 1), -1.0)
    bright[0, 4:6, 2:4] = 1  # the patch in row 2, column 1
    changed = np.flatnonzero(codebook.encode(bright) != blank)
    assert changed.tolist() == [2 * 4 + 1]


def test_codes_are_ordered_from_dark_to_bright(codebook):
    assert (np.diff(codebook.codes.mean(1)) >= 0).all()


def test_as_many_codes_as_distinct_patches_lose_nothing():
    images = np.random.default_rng(0).choice([-1.0, 0.0, 1.0], (30, 4, 4, 1))
    distinct = len(np.unique(images.reshape(30, 2, 2, 2, 2).transpose(0, 1, 3, 2, 4).reshape(-1, 4), axis=0))
    full = PatchCodebook.fit(images, codes=distinct)
    assert lost_variance(full, images) == 0
    assert np.array_equal(full.decode(full.encode(images)), images)


def test_a_single_code_loses_all_of_the_variance(images):
    assert lost_variance(PatchCodebook.fit(images, codes=1), images) == pytest.approx(1, abs=1e-3)


def test_images_of_several_channels_survive_a_round_trip():
    images = np.random.default_rng(0).choice([-1.0, 1.0], (3, 4, 6, 3))
    full = PatchCodebook.fit(images, codes=18)
    assert full.grid == (2, 3)
    assert np.array_equal(full.decode(full.encode(images)), images)


def test_a_patch_that_does_not_divide_the_image_is_refused(images):
    with pytest.raises(ValueError, match="patch must divide the image's sides, given patch 3 and 8x8"):
        PatchCodebook.fit(images, patch=3)
