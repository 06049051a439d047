"""Sample quality: torch-fidelity's numbers, right on known cases, and able to tell what logits cannot."""

import numpy as np
import pytest
import torch

from eltbench import data
from eltbench.data.base import Clean
from eltbench.evaluation.quality.distances import kernel_null, memorising, quality, real_floor, reference, scores
from eltbench.evaluation.quality.features import INCEPTION, Features, extract, full_name

HELDOUT = 357


def values(measured):
    return {score.metric: score.value for score in measured}


def independent_pixels(pool: Clean, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Images whose every pixel comes from another image of the class: right one pixel at a time, wrong together."""
    images = np.empty((len(labels), 8, 8, 1), np.float32)
    rows, columns = np.indices((8, 8))
    for place, label in enumerate(labels):
        candidates = pool.values[pool.labels == label]
        images[place] = candidates[rng.integers(len(candidates), size=(8, 8)), rows, columns]
    return images


@pytest.fixture(scope="module")
def ladder():
    """Scores of real, noisy and pixel-independent digits against held-out ones, sizes and classes matched."""
    digits = data.create("digits")
    training, heldout = digits.training(), digits.heldout()
    rng = np.random.default_rng(0)
    real = np.empty_like(heldout.values)
    for label in range(10):
        places = np.flatnonzero(heldout.labels == label)
        real[places] = training.values[rng.permutation(np.flatnonzero(training.labels == label))[: len(places)]]
    noisy = np.clip(real + 0.3 * rng.standard_normal(real.shape).astype(np.float32), -1, 1)
    independent = independent_pixels(training, heldout.labels, rng)
    return {
        name: values(quality(images, heldout.values))
        for name, images in (("real", real), ("noisy", noisy), ("independent", independent))
    }


@pytest.mark.parametrize("metric", ["kernel_distance", "frechet_distance"])
@pytest.mark.parametrize("worse", ["noisy", "independent"])
def test_real_images_are_nearer_to_real_ones_than_spoilt_images(ladder, metric, worse):
    assert ladder["real"][metric] < ladder[worse][metric]


@pytest.mark.slow
@pytest.mark.parametrize("worse", ["noisy", "independent"])
def test_spoilt_images_lie_beyond_chance_and_real_ones_within(ladder, worse):
    null = kernel_null(data.create("digits"), HELDOUT)
    assert abs(ladder["real"]["kernel_distance"]) < 3 * null
    assert ladder[worse]["kernel_distance"] > 4 * null


@pytest.mark.parametrize("worse", ["noisy", "independent"])
def test_spoilt_images_are_less_precise(ladder, worse):
    assert ladder[worse]["precision"] < ladder["real"]["precision"] - 0.05


@pytest.mark.slow
def test_the_logits_are_blind_to_independent_pixels_where_the_maps_are_not():
    digits = data.create("digits")
    training, heldout = digits.training(), digits.heldout()
    rng = np.random.default_rng(1)
    real, spoilt = extract(heldout.values), extract(independent_pixels(training, heldout.labels, rng))
    pool = extract(training.values)

    def deviations(layer):  # the kernel distance of spoilt images in units of its spread between real ones
        known = getattr(pool, layer)
        standard = {name: (getattr(read, layer) - known.mean(0)) / known.std(0) for name, read in sets.items()}
        null = []
        for _ in range(60):
            order = rng.permutation(len(known))[: 2 * HELDOUT].reshape(2, HELDOUT)
            null.append(kernel_distance(*standard["pool"][order]))
        return kernel_distance(standard["spoilt"], standard["real"]) / np.std(null)

    def kernel_distance(one, two):
        return values(scores(Features(one, one), Features(two, two), "given"))["kernel_distance"]

    sets = {"pool": pool, "real": real, "spoilt": spoilt}
    assert deviations("logits") < 3 < 4 < deviations("maps")


def gaussian_features(rng, n, d, scale=1.0, shift=0.0):
    """Features whose sample mean and covariance are exactly `shift` and scale²·I."""
    drawn = rng.standard_normal((n, d))
    drawn -= drawn.mean(0)
    drawn @= np.linalg.inv(np.linalg.cholesky(np.cov(drawn, rowvar=False))).T
    return Features(drawn * scale + shift, rng.standard_normal((n, 3)))


def test_the_frechet_distance_of_two_known_gaussians_is_right():
    rng = np.random.default_rng(1)
    near, far = gaussian_features(rng, 300, 6), gaussian_features(rng, 300, 6, scale=2.5, shift=0.7)
    expected = 6 * 0.7**2 + 6 * (2.5 - 1) ** 2  # |μ1 - μ2|² + tr(Σ1 + Σ2 - 2 (Σ1 Σ2)^½)
    assert values(scores(near, far, "given"))["frechet_distance"] == pytest.approx(expected, rel=1e-9)


def test_the_frechet_distance_uses_the_square_root_of_a_product_that_does_not_commute():
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(2)
    first, second = (rng.standard_normal((200, 5)) @ rng.standard_normal((5, 5)) for _ in range(2))
    one, two = np.cov(first.T), np.cov(second.T)
    root = sqrtm(sqrtm(one) @ two @ sqrtm(one)).real  # the symmetric form of Dowson and Landau (1982)
    expected = np.sum((first.mean(0) - second.mean(0)) ** 2) + np.trace(one + two - 2 * root)
    logits = np.zeros((200, 3))
    measured = values(scores(Features(first, logits), Features(second, logits), "given"))
    assert measured["frechet_distance"] == pytest.approx(expected, rel=1e-8)


def test_the_kernel_distance_is_the_unbiased_cubic_one():
    rng = np.random.default_rng(3)
    n, d = 12, 5
    x, y = rng.standard_normal((n, d)), rng.standard_normal((n, d)) + 0.4

    def k(a, b):
        return (a @ b / d + 1) ** 3

    within = sum(k(s[i], s[j]) for s in (x, y) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    between = sum(k(a, b) for a in x for b in y) / n**2
    measured = values(scores(Features(x, x), Features(y, y), "given"))
    assert measured["kernel_distance"] == pytest.approx(within - 2 * between, rel=1e-9)


def test_identical_sets_have_precision_and_recall_one():
    images = data.create("digits").heldout().values[:60]
    measured = values(quality(images, images.copy()))
    assert measured["precision"] == measured["recall"] == 1
    assert measured["frechet_distance"] == pytest.approx(0, abs=1e-6)


def test_a_collapsed_set_is_precise_and_recalls_little():
    heldout = data.create("digits").heldout()
    zeros = data.create("digits").training()
    zeros = zeros.values[zeros.labels == 0][:100]
    measured = values(quality(zeros, heldout.values[:100]))
    assert measured["precision"] > 0.8
    assert measured["recall"] < 0.4
    assert measured["classifier_score"] < 1.2


def test_the_classifier_score_of_certain_and_even_guesses_is_their_number():
    logits = 50 * np.eye(7)[np.arange(70) % 7]
    measured = scores(
        Features(np.random.default_rng(4).standard_normal((70, 3)), logits),
        *(
            Features(np.random.default_rng(5).standard_normal((70, 3)), logits),
            "given",
        ),
    )
    assert values(measured)["classifier_score"] == pytest.approx(7, rel=1e-9)


def test_the_values_are_those_of_torch_fidelitys_own_command():
    import torch_fidelity

    from eltbench.backends.torch.classifier import Images

    digits = data.create("digits")
    sets = digits.training().values[:120], digits.heldout().values[:120]
    ours = values(quality(*sets))
    first, second = (
        Images(torch.from_numpy(np.rint((images + 1) * 127.5).astype(np.uint8)).movedim(3, 1).expand(-1, 3, -1, -1))
        for images in sets
    )
    theirs = torch_fidelity.calculate_metrics(
        input1=first, input2=second, feature_extractor=full_name("digits-conv"), fid=True, kid=True, prc=True, isc=True,
        kid_subsets=1, kid_subset_size=120, isc_splits=1, cuda=False, verbose=False, cache=False, save_cpu_ram=True,
    )  # fmt: skip
    pairs = {
        "frechet_distance": "frechet_inception_distance",
        "kernel_distance": "kernel_inception_distance_mean",
        "precision": "precision",
        "recall": "recall",
        "classifier_score": "inception_score_mean",
    }
    for name, key in pairs.items():
        assert ours[name] == pytest.approx(theirs[key], rel=1e-3, abs=1e-5), name


def test_only_inceptions_metrics_are_called_fid_kid_and_inception_score():
    rng = np.random.default_rng(6)
    one, two = gaussian_features(rng, 20, 4), gaussian_features(rng, 20, 4)
    assert set(values(scores(one, two, INCEPTION))) == {"fid", "kid", "precision", "recall", "inception_score"}
    assert set(values(scores(one, two, "digits-conv-1a2b3c4d"))) == {
        "frechet_distance", "kernel_distance", "precision", "recall", "classifier_score",
    }  # fmt: skip


def test_sizes_are_matched_and_stand_beside_the_value():
    digits = data.create("digits")
    training, heldout = digits.training().values, digits.heldout().values
    longer, matched = quality(training[:90], heldout), quality(training[:90], heldout[:90])
    assert longer == matched
    assert {score.n_samples for score in longer} == {90}
    assert {score.feature_extractor for score in longer} == {full_name("digits-conv")}
    assert {score.metric for score in longer if score.higher_is_better} == {"precision", "recall", "classifier_score"}


def test_two_sets_of_different_ranges_are_refused():
    images = data.create("digits").heldout().values[:20]
    for first, second in (((images + 1) / 2, images), (images, (images + 1) / 2)):
        with pytest.raises(ValueError, match=r"^quality: all values of (samples|reference) lie in 0..1"):
            quality(first, second)
    with pytest.raises(ValueError, match="given uint8"):
        quality(((images + 1) * 127.5).astype(np.uint8), images)


def test_too_few_images_are_refused():
    images = data.create("digits").heldout().values
    with pytest.raises(ValueError, match="at least 5, given 4 and 4"):
        quality(images[:4], images)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "digits-codes", "digits-levels"])
def test_the_floor_compares_disjoint_real_images_with_like_classes(name):
    floor = real_floor(data.create(name), HELDOUT)
    assert {score.n_samples for score in floor} == {HELDOUT}
    assert values(floor)["kernel_distance"] < 3 * kernel_null(data.create(name), HELDOUT)
    assert values(floor)["frechet_distance"] > 0.1  # were the sets to share images, it would be near 0
    assert floor == real_floor(data.create(name), HELDOUT)


def test_more_images_than_are_held_out_are_refused():
    with pytest.raises(ValueError, match="at most the 357 held-out images, given 358"):
        reference(data.create("digits"), 358)


@pytest.mark.slow
def test_the_null_is_the_spread_of_the_kernel_distance_of_random_halves():
    digits = data.create("digits")
    pool = extract(np.concatenate([digits.training().values, digits.heldout().values])).maps
    kernel = (pool @ pool.T / pool.shape[1] + 1) ** 3
    np.fill_diagonal(kernel, 0)
    rng = np.random.default_rng(7)
    n, drawn = 120, []
    for _ in range(1500):
        one, two = rng.permutation(len(pool))[: 2 * n].reshape(2, n)
        within = kernel[np.ix_(one, one)].sum() + kernel[np.ix_(two, two)].sum()
        drawn.append(within / (n * (n - 1)) - 2 * kernel[np.ix_(one, two)].mean())
    assert np.mean(drawn) == pytest.approx(0, abs=4 * np.std(drawn) / np.sqrt(1500))  # unbiased
    assert kernel_null(digits, n, draws=1500) == pytest.approx(np.std(drawn), rel=0.15)


@pytest.mark.slow
def test_the_null_is_deterministic_and_shrinks_with_size():
    digits = data.create("digits")
    small, large = kernel_null(digits, 180), kernel_null(digits, 720)
    assert small == kernel_null(digits, 180)
    assert large < small / 2
    with pytest.raises(ValueError, match="need 1800 real images, the dataset has 1797"):
        kernel_null(digits, 900)


def test_copies_lie_on_the_training_images_and_held_out_images_do_not():
    digits = data.create("digits")
    training, heldout = digits.training().values, digits.heldout().values
    copies = memorising(training[:50], training, heldout)
    assert copies.nearest_training_distance == pytest.approx(0, abs=1e-5)
    assert copies.heldout_nearest_training_distance > 1
    fresh = memorising(heldout, training, heldout)
    assert fresh.nearest_training_distance == fresh.heldout_nearest_training_distance


def test_the_nearest_distance_is_the_least_over_pixels():
    rng = np.random.default_rng(8)
    samples, training, heldout = (rng.uniform(-1, 1, (n, 4, 4, 1)).astype(np.float32) for n in (7, 9, 5))
    measured = memorising(samples, training, heldout)
    for images, value in zip((samples, heldout), measured, strict=True):
        pairs = np.sqrt(((images[:, None] - training[None]) ** 2).sum((2, 3, 4)))
        assert value == pytest.approx(np.median(pairs.min(1)), rel=1e-5)


def test_memorising_refuses_images_of_another_shape():
    with pytest.raises(ValueError, match="image shapes differ"):
        memorising(np.zeros((2, 8, 8, 1)), np.zeros((2, 4, 4, 1)), np.zeros((2, 8, 8, 1)))
