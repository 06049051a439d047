"""Arrays of a user: taken in the form of the data, or refused with ValueError before anything is computed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch_fidelity  # noqa: F401  when first loaded, torch makes a cache folder of its own, which is not to be seen
from judging import bounded, drawn, tried, watched
from start import TRAINED

from eltbench import load_model
from eltbench.evaluation.quality.distances import quality
from eltbench.evaluation.stopping.anytime import anytime
from eltbench.training.identity import run_id

B = 4
IMAGES = np.random.default_rng(0).standard_normal((B, 8, 8, 1)).astype(np.float32)
TOKENS = np.zeros((B, 16), np.int32)
LABELS = np.arange(B, dtype=np.int32)
REAL = np.tanh(np.random.default_rng(1).standard_normal((12, 8, 8, 1))).astype(np.float32)
ODD = [
    *(None, True, 3, -1, 2.5, math.nan, math.inf, "12", b"12", [], [[]], {}, [None], ["a"], [1, [2]], 10**30),
    *(np.zeros(0), np.zeros((0, 8, 8, 1), np.float32), np.zeros((B, 0)), np.float32(1), np.array("a"), np.array(None)),
    *(
        IMAGES[..., 0],
        IMAGES[0],
        IMAGES.astype(complex),
        IMAGES > 0,
        IMAGES.astype(object),
        IMAGES * math.nan,
        IMAGES[::-1],
    ),
    *(TOKENS[0], TOKENS[..., None], TOKENS + 10**6, TOKENS - 1, TOKENS + 0.5, TOKENS.astype(np.uint64) + 2**63),
    *(
        LABELS[:, None],
        LABELS[:2],
        LABELS.astype(np.int64) + 2**32,
        LABELS - 1,
        LABELS.astype(str),
        np.datetime64("2020"),
        "\x00",
    ),
]


@pytest.fixture(scope="session")
def models(trained):
    """A diffusion model of images and a masked one of tokens."""
    return {name: load_model(trained.directory(run_id(TRAINED[name]))) for name in ("digits", "codes")}


def clean(**given):
    return lambda it: it["digits"].predict(
        **{"inputs": IMAGES, "labels": LABELS, "log_snr": 0.0, "exits": (1, 2), **given}
    )


def tokens(**given):
    return lambda it: it["codes"].predict(**{"inputs": TOKENS, "labels": LABELS, "exits": (1, 2), **given})


def samples(**given):
    return lambda it: it["digits"].sample(**{"labels": LABELS, "loops": 2, "steps": 2, **given})


def now(**given):
    return lambda it: list(
        anytime(it["digits"], **{"inputs": IMAGES, "labels": LABELS, "log_snr": 0.0, "exits": (1, 2), **given})
    )


def scores(generated, real=REAL):
    return lambda it: quality(generated, real)


FORBIDDEN = {
    "labels from 1": clean(labels=LABELS + 8),
    "labels of 2³²": clean(labels=LABELS.astype(np.int64) + 2**32),
    "labels of -1": clean(labels=LABELS - 1),
    "labels of 0.9": clean(labels=LABELS + 0.9),
    "labels of NaN": clean(labels=LABELS * math.nan),
    "labels of another number": clean(labels=LABELS[:2]),
    "labels (B, 1)": clean(labels=LABELS[:, None]),
    "labels as text": clean(labels=LABELS.astype(str)),
    "images (4, 1)": clean(inputs=np.zeros((4, 1), np.float32)),
    "one image": clean(inputs=IMAGES[0]),
    "images without channels": clean(inputs=IMAGES[..., 0]),
    "images of another side": clean(inputs=np.zeros((B, 6, 6, 1), np.float32)),
    "images of three channels": clean(inputs=np.zeros((B, 8, 8, 3), np.float32)),
    "images with NaN": clean(inputs=IMAGES * math.nan),
    "images with infinity": clean(inputs=IMAGES * math.inf),
    "images of uint8": clean(inputs=(IMAGES * 50).astype(np.uint8)),
    "complex images": clean(inputs=IMAGES.astype(complex)),
    "images as objects": clean(inputs=IMAGES.astype(object)),
    "log_snr NaN": clean(log_snr=math.nan),
    "log_snr of another number": clean(log_snr=np.zeros(B - 1)),
    "log_snr (B, 1)": clean(log_snr=np.zeros((B, 1))),
    "no log_snr": clean(log_snr=None),
    "context that is not asked for": clean(context=TOKENS),
    "tokens (16,)": tokens(inputs=TOKENS[0]),
    "tokens (B, 4)": tokens(inputs=TOKENS[:, :4]),
    "tokens beyond the vocabulary": tokens(inputs=TOKENS + 10**6),
    "tokens of -1": tokens(inputs=TOKENS - 1),
    "tokens of 0.5": tokens(inputs=TOKENS + 0.5),
    "tokens of 2³²": tokens(inputs=TOKENS.astype(np.int64) + 2**32),
    "tokens as bool": tokens(inputs=TOKENS > 0),
    **{
        f"exits {exits!r}": clean(exits=exits)
        for exits in ((2.9,), "12", 4, (), (2, 1), (1, 1), (0,), (-1,), (True,), (math.nan,), None, (10**9,), ("1",))
    },
    "dropout_passes below 0": clean(dropout_passes=-1),
    "sample: labels of 12": samples(labels=[12]),
    "sample: labels of -1": samples(labels=[-1]),
    "sample: labels of 2³²": samples(labels=[2**32]),
    "sample: labels of 0.9": samples(labels=[0.9]),
    "sample: labels (B, 1)": samples(labels=LABELS[:, None]),
    "sample: no labels": samples(labels=[]),
    "sample: labels as text": samples(labels="12"),
    **{f"sample: loops {loops!r}": samples(loops=loops) for loops in (0, -1, 2.5, "2", True, None, [1], 10**9)},
    **{f"sample: steps {steps!r}": samples(steps=steps) for steps in (0, -1, 1.5, "2", True, math.nan, 10**9)},
    **{
        f"sample: guidance {scale!r}": samples(guidance_scale=scale)
        for scale in (math.nan, math.inf, "3", True)
    },
    **{f"sample: seed {seed!r}": samples(seed=seed) for seed in (-1, 1.5, "0")},
    "sample: an unknown setting": samples(stpes=2),
    "anytime: labels from 1": now(labels=LABELS + 8),
    "anytime: images with NaN": now(inputs=IMAGES * math.nan),
    "anytime: images (4, 1)": now(inputs=np.zeros((4, 1), np.float32)),
    "anytime: exits of 2.9": now(exits=(1, 2.9)),
    "anytime: a deadline of NaN": now(deadline_ms=math.nan),
    "anytime: a deadline below 0": now(deadline_ms=-1),
    "anytime: an unknown rule": now(rule="entorpy", threshold=0.5),
    "quality: uint8": scores((REAL * 127 + 128).astype(np.uint8)),
    "quality: 0 to 255": scores(REAL * 127 + 128),
    "quality: samples of 0 to 1 against -1 to 1": scores((REAL + 1) / 2),
    "quality: NaN": scores(REAL * math.nan),
    "quality: integers": scores(np.zeros((12, 8, 8, 1), np.int32)),
    "quality: four images": scores(REAL[:4]),
    "quality: without channels": scores(REAL[..., 0]),
    "quality: another side": scores(np.zeros((12, 9, 9, 1), np.float32)),
}  # fmt: skip


@pytest.mark.parametrize("label", FORBIDDEN)
def test_what_the_form_of_the_data_forbids_is_refused(place, models, label):
    with watched(place), bounded(), pytest.raises(ValueError):  # noqa: PT011
        FORBIDDEN[label](models)


@pytest.mark.parametrize("call", [clean, tokens, samples, now])
def test_what_the_forbidden_arrays_start_from_is_taken(place, models, call):
    with watched(place), bounded():
        assert len(call()(models)) > 0


@pytest.mark.parametrize("call", [clean, tokens, samples, now], ids=lambda it: it.__name__)
def test_any_argument_is_taken_or_refused(place, models, call):
    names = {
        clean: ("inputs", "labels", "log_snr", "context", "exits", "dropout_passes", "seed"),
        tokens: ("inputs", "labels", "log_snr", "context", "exits"),
        samples: ("labels", "loops", "steps", "guidance_scale", "seed"),
        now: ("inputs", "labels", "log_snr", "deadline_ms", "exits"),
    }[call]

    def cases():
        for label, random in drawn(call.__name__, 40):
            given = {name: random.choice(ODD) for name in random.sample(names, random.choice((1, 1, 2)))}
            yield f"{label} {given!r:.120}", lambda given=given: call(**given)(models)

    tried(cases(), place)


def test_any_images_are_scored_or_refused(place, models):
    arrays = [REAL, *(each for each in ODD if isinstance(each, np.ndarray) and each.ndim)]

    def cases():
        for label, random in drawn("quality", 20):
            pair = [random.choice(arrays) for _ in range(2)]
            yield f"{label} {pair!r:.120}", lambda pair=pair: quality(*pair)

    tried(cases(), place)
