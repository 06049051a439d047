"""The feature extractors: traceable by hash, sound on known images, clear about what is absent."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from eltbench import data
from eltbench.backends.torch.classifier import DigitsClassifier
from eltbench.core.registry import UnknownNameError
from eltbench.evaluation.quality import features


@pytest.fixture
def fresh_extractors():
    """Extractors are built once a process; a test that moves weights about starts and ends without any."""
    features._network.cache_clear()
    yield
    features._network.cache_clear()


@pytest.fixture
def no_inception(tmp_path, monkeypatch, fresh_extractors):
    """A machine without Inception's weights."""
    monkeypatch.delenv(features.INCEPTION_VARIABLE, raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path


def test_the_extractors_name_carries_the_hash_of_its_weights():
    name = features.full_name("digits-conv")
    content = (features.WEIGHTS / f"{name}.safetensors").read_bytes()
    assert name == f"digits-conv-{hashlib.sha256(content).hexdigest()[:8]}"
    assert len(content) < 200_000
    assert features.full_name(name) == name


def test_the_committed_classifier_reads_held_out_digits_as_its_docstring_states():
    heldout = data.create("digits").heldout()
    accuracy = (features.extract(heldout.values).logits.argmax(1) == heldout.labels).mean()
    assert accuracy > 0.95
    assert f"held-out accuracy of {accuracy:.4f}" in features.train_digits.__doc__


def test_the_maps_are_standardised_by_the_training_split():
    maps = features.extract(data.create("digits").training().values).maps
    assert maps.shape == (1440, 64)
    np.testing.assert_allclose(maps.mean(0), 0, atol=0.01)  # uint8 rounds what the statistics saw unrounded
    np.testing.assert_allclose(maps.std(0, ddof=1), 1, atol=0.01)


def test_the_maps_equal_the_convolutions_computed_by_hand():
    from scipy.signal import correlate

    weights = {key: value.double().numpy() for key, value in features.digits_weights().items()}

    def convolve(maps, layer):  # (C, 8, 8) -> (K, 8, 8)
        kernels, biases = weights[f"{layer}.weight"], weights[f"{layer}.bias"]
        padded = np.pad(maps, ((0, 0), (1, 1), (1, 1)))
        return np.maximum(
            [correlate(padded, kernel, "valid")[0] + bias for kernel, bias in zip(kernels, biases, strict=True)], 0
        )

    image = data.create("digits").heldout().values[:1]
    rounded = np.rint((image[0, :, :, 0] + 1) * 127.5) / 127.5 - 1
    maps = convolve(convolve(rounded[None], "first"), "second")
    pooled = maps.reshape(16, 2, 4, 2, 4).mean((2, 4)).reshape(64)
    expected = (pooled - weights["mean"]) / weights["deviation"]
    np.testing.assert_allclose(features.extract(image).maps[0], expected, rtol=1e-4, atol=1e-5)


def test_weights_other_than_their_name_says_are_refused(tmp_path):
    file = tmp_path / f"{features.DIGITS}.safetensors"
    shutil.copy(features.WEIGHTS / file.name, file)
    assert features.digits_weights(tmp_path).keys() == DigitsClassifier().state_dict().keys()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"other weights than its name says: hash [0-9a-f]{8}, expected"):
        features.digits_weights(tmp_path)


def test_training_writes_the_same_weights_twice_under_the_name_of_their_hash(tmp_path):
    files = []
    for place in ("once", "again"):
        (tmp_path / place).mkdir()
        file, accuracy = features.train_digits(tmp_path / place, epochs=1)
        assert 0.3 < accuracy < 1
        files.append(file)
    assert (
        files[0].name
        == files[1].name
        == f"digits-conv-{hashlib.sha256(files[0].read_bytes()).hexdigest()[:8]}" + (".safetensors")
    )
    assert load_file(files[0]).keys() == DigitsClassifier().state_dict().keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda images: images * 3, r"values must lie in \[-1, 1\], given -3..3"),
        (lambda images: (images + 1) * 127.5, r"values must lie in \[-1, 1\], given 0..255"),
        (lambda images: ((images + 1) * 127.5).astype(np.uint8), "expected floats .* given uint8"),
        (lambda images: images > 0, "expected floats .* given bool"),
    ],
)
def test_values_that_are_no_floats_in_the_range_are_refused(change, message):
    images = data.create("digits").heldout().values[:3]
    with pytest.raises(ValueError, match=f"^images: {message}"):
        features.extract(change(images))
    features.extract(images * (1 + 1e-6))  # rounding is none


def test_values_that_are_not_finite_are_refused():
    images = data.create("digits").heldout().values[:3]
    images[1, 2, 3] = np.nan
    with pytest.raises(ValueError, match="1 of 192 values are not finite"):
        features.extract(images)


@pytest.mark.parametrize("shape", [(3, 8, 8), (3, 1, 8, 8), (0, 8, 8, 1), (3, 9, 8, 1), (3, 8, 8, 3)])
def test_other_shapes_are_refused_with_what_was_given(shape):
    with pytest.raises(ValueError, match=rf"given shape \({shape[0]}, {shape[1]}, "):
        features.extract(np.zeros(shape, np.float32))


def test_an_unknown_extractor_suggests_the_near_miss():
    with pytest.raises(UnknownNameError, match="did you mean 'digits-conv'"):
        features.full_name("digit-conv")


def test_absent_inception_weights_are_said_to_be_absent_and_never_downloaded(no_inception, monkeypatch):
    def download(*arguments, **options):
        raise AssertionError("tried to download")

    monkeypatch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", download)
    assert features.inception_weights() is None
    with pytest.raises(FileNotFoundError, match=rf"nothing is downloaded: put {features.INCEPTION_FILE}"):
        features.extract(np.zeros((2, 8, 8, 1), np.float32), "inception-v3-compat")


def test_a_named_inception_file_must_exist_and_be_the_published_one(no_inception, monkeypatch):
    file = no_inception / "other.pth"
    with pytest.raises(FileNotFoundError, match=r"no Inception weights at .*other\.pth"):
        features.inception_weights(file)
    file.write_bytes(b"other weights")
    monkeypatch.setenv(features.INCEPTION_VARIABLE, str(file))
    with pytest.raises(ValueError, match="other weights"):
        features.inception_weights()
    monkeypatch.setattr(features, "INCEPTION_SHA256", hashlib.sha256(b"other weights").hexdigest())
    assert features.inception_weights() == file


@pytest.mark.slow
def test_inception_features_are_read_where_its_weights_lie_in_torch_hubs_cache(no_inception, monkeypatch):
    from torch_fidelity import feature_extractor_inceptionv3 as inception

    with monkeypatch.context() as patch:  # an Inception with random weights stands in for the published one
        patch.setattr(inception, "load_state_dict_from_url", lambda *arguments, **options: {})
        patch.setattr(inception.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        network = inception.FeatureExtractorInceptionV3("random", ["2048", "logits_unbiased"])
    file = no_inception / "hub" / "checkpoints" / features.INCEPTION_FILE
    file.parent.mkdir(parents=True)
    torch.save(network.state_dict(), file)
    monkeypatch.setattr(features, "INCEPTION_SHA256", hashlib.sha256(file.read_bytes()).hexdigest())
    assert features.inception_weights() == file

    images = data.create("digits").heldout().values[:2]
    read = features.extract(images, "inception-v3-compat")
    grey = torch.from_numpy(np.rint((images + 1) * 127.5).astype(np.uint8)).movedim(3, 1).expand(-1, 3, -1, -1)
    maps, logits = network(grey)
    np.testing.assert_allclose(read.maps, maps, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(read.logits, logits, rtol=1e-4, atol=1e-6)
    assert read.maps.shape == (2, 2048)
    assert read.logits.shape == (2, 1008)


@pytest.mark.slow
def test_the_training_command_prints_the_file_and_its_accuracy(tmp_path, monkeypatch, capsys):
    import runpy

    weights = tmp_path / "evaluation" / "weights"
    weights.mkdir(parents=True)
    source = tmp_path / "evaluation" / "features.py"
    shutil.copy(features.__file__, source)  # a copy, so that the command writes beside it and not into the package
    threads = torch.get_num_threads()
    try:
        runpy.run_path(str(source), run_name="__main__")
    finally:
        torch.set_num_threads(threads)
    printed = json.loads(capsys.readouterr().out)
    assert (weights / printed["file"]).is_file()
    assert printed["heldout_accuracy"] > 0.95
