"""The feature extractors behind sample quality, named by the hash of their weights.

`python -m eltbench.evaluation.quality.features` trains the digit classifier anew and writes its weights.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eltbench.core.registry import UnknownNameError
from eltbench.core.validation import unknown
from eltbench.data.form import BEYOND

WEIGHTS = Path(__file__).parent / "weights"
DIGITS = "digits-conv-1d74230e"
INCEPTION = "inception-v3-compat"
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
# torch-fidelity unpickles the file, so it must be the published one.
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
INCEPTION_VARIABLE = "ELTBENCH_INCEPTION_WEIGHTS"
LAYERS = {DIGITS: ("early", "logits"), INCEPTION: ("2048", "logits_unbiased")}


class Features(NamedTuple):
    """What an extractor reads from n images: `maps` (n, d) for distances, `logits` (n, classes); float64."""

    maps: np.ndarray
    logits: np.ndarray


def full_name(extractor: str) -> str:
    """The extractor's name with its hash: "digits-conv-1a2b3c4d" for "digits-conv"; raises UnknownNameError."""
    name = DIGITS if extractor == "digits-conv" else extractor
    if name not in LAYERS:
        raise UnknownNameError(unknown("feature extractor", extractor, ["digits-conv", *LAYERS]))
    return name


def check_shape(shape: tuple[int, ...], extractor: str) -> None:
    """Refuse (ValueError) images (n, H, W, C) of a shape that the extractor does not take."""
    if len(shape) != 4 or shape[3] not in (1, 3) or not shape[0]:
        raise ValueError(f"images: expected (n, H, W, 1 or 3) with n at least 1, given shape {shape}")
    if (name := full_name(extractor)) == DIGITS and shape[1:] != (8, 8, 1):
        raise ValueError(f"feature extractor {name!r} takes images (n, 8, 8, 1), given shape {shape}")


def extract(images: np.ndarray, extractor: str = "digits-conv") -> Features:
    """Features of images (n, H, W, C) in [-1, 1], C = 1 or 3, read by torch-fidelity.

    Images pass through uint8, as torch-fidelity demands: values are rounded to 256 levels, a step of 1/127.5 where the
    digits' own grey levels are 1/8 apart. Raises ValueError for integers, values that are not finite or outside
    [-1, 1], and shapes the extractor does not take, FileNotFoundError for Inception without its weights.
    """
    import torch
    from torch_fidelity.utils import get_featuresdict_from_dataset

    from eltbench.backends.torch.classifier import Images

    name = full_name(extractor)
    data = Images(torch.from_numpy(_uint8(images, name)))  # (n, 3, H, W)
    options = {"batch_size": 256, "cuda": False, "save_cpu_ram": True, "verbose": False}
    read = get_featuresdict_from_dataset(data, _network(name), **options)
    return Features(*(read[layer].double().numpy() for layer in LAYERS[name]))


def inception_weights(path: str | Path | None = None) -> Path | None:
    """The file of Inception's weights where there is one: `path`, $ELTBENCH_INCEPTION_WEIGHTS, or torch hub's cache.

    Nothing is downloaded. Raises FileNotFoundError where a path is given and holds no file, ValueError where the file's
    content is not that of the published weights.
    """
    import torch.hub

    given = path or os.environ.get(INCEPTION_VARIABLE)
    file = Path(given) if given else Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
    if not file.is_file():
        if given:
            raise FileNotFoundError(f"no Inception weights at {file}; give the path of {INCEPTION_FILE}")
        return None
    _check_hash(file, INCEPTION_SHA256)
    return file


def check_weights(extractor: str) -> None:
    """Refuse an extractor whose weights are not here: FileNotFoundError, or ValueError for others under its name."""
    if full_name(extractor) == INCEPTION and inception_weights() is None:
        raise FileNotFoundError(
            f"feature extractor {INCEPTION!r} needs its weights and nothing is downloaded: put {INCEPTION_FILE} "
            f"into torch hub's checkpoints or name it in ${INCEPTION_VARIABLE}; 'digits-conv' needs no file"
        )


def digits_weights(directory: Path = WEIGHTS) -> dict[str, Any]:
    """The state dictionary of the committed digit classifier; raises ValueError where its hash is another."""
    from safetensors.torch import load_file

    file = directory / f"{DIGITS}.safetensors"
    _check_hash(file, DIGITS[-8:])
    return load_file(file)


def train_digits(directory: Path = WEIGHTS, *, epochs: int = 30, seed: int = 0) -> tuple[Path, float]:
    """Train the digit classifier and write its weights, named by their hash; gives the file and its held-out accuracy.

    The command as committed prints a held-out accuracy of 0.9748. One machine and thread count gives the same file at
    every call; other processors may round differently and then name theirs otherwise.
    """
    import torch
    from safetensors.torch import save

    from eltbench import data
    from eltbench.backends.torch.classifier import fit

    digits: Any = data.create("digits")
    training, heldout = digits.training(), digits.heldout()
    network = fit(torch.from_numpy(training.values).movedim(3, 1), torch.from_numpy(training.labels), epochs, seed)
    with torch.no_grad():
        guesses = network(torch.from_numpy(heldout.values).movedim(3, 1)).argmax(1).numpy()
    accuracy = float((guesses == heldout.labels).mean())
    content = save({key: value.contiguous() for key, value in network.state_dict().items()})
    file = directory / f"digits-conv-{hashlib.sha256(content).hexdigest()[:8]}.safetensors"
    file.write_bytes(content)
    return file, accuracy


@functools.cache
def _network(name: str) -> Any:
    """The extractor as torch-fidelity builds it; the digits' own is registered there at its first use."""
    import torch_fidelity
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY
    from torch_fidelity.utils import create_feature_extractor

    from eltbench.backends.torch.classifier import DigitsExtractor

    options: dict[str, Any] = {}
    if name == INCEPTION:
        check_weights(name)
        options["feature_extractor_weights_path"] = str(inception_weights())
    elif name not in FEATURE_EXTRACTORS_REGISTRY:
        bound = type("CommittedDigitsExtractor", (DigitsExtractor,), {"weights": digits_weights()})
        torch_fidelity.register_feature_extractor(name, bound)
    return create_feature_extractor(name, list(LAYERS[name]), cuda=False, verbose=False, **options)


def _uint8(images: np.ndarray, name: str) -> np.ndarray:
    check_shape(images.shape, name)
    if images.dtype.kind != "f":
        raise ValueError(f"images: expected floats in [-1, 1], given {images.dtype}; of 0..255 take x / 127.5 - 1")
    if bad := images.size - int(np.isfinite(images).sum()):
        raise ValueError(f"images: {bad} of {images.size} values are not finite; such samples have no quality")
    if (low := images.min()) < -1 - BEYOND or images.max() > 1 + BEYOND:
        raise ValueError(f"images: values must lie in [-1, 1], given {low:g}..{images.max():g}; scale or clip them")
    pixels = np.rint((np.clip(images, -1, 1) + 1) * 127.5).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:3], 3)).transpose(0, 3, 1, 2))


def _check_hash(file: Path, expected: str) -> None:
    found = hashlib.sha256(file.read_bytes()).hexdigest()[: len(expected)]
    if found != expected:
        raise ValueError(f"{file} holds other weights than its name says: hash {found}, expected {expected}")


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    written, heldout_accuracy = train_digits()
    print(json.dumps({"file": written.name, "heldout_accuracy": round(heldout_accuracy, 4)}))
