"""The recounted figures equal arithmetic by hand, and the networks that this package builds."""

import dataclasses

import pytest

from eltbench import accounting
from eltbench.accounting import NetworkSpec
from eltbench.core.config import Architecture
from eltbench.studies.audit.paper import recount
from eltbench.studies.audit.paper.conventions import (
    COMPUTE,
    LAYERS,
    PARAMETERS,
    SETTINGS,
    ComputeConvention,
    ParameterConvention,
)
from eltbench.studies.audit.paper.recount import Shape

PLAIN, SIXTEEN, DIT = LAYERS
MASKED, DIFFUSION, VIDEO = SETTINGS
WEIGHTS = ParameterConvention(PLAIN, biases=False, embeddings="no embeddings")
FLOPS = ComputeConvention("FLOP", calls=1, attention=False, head=False, condition_token=True)
MACS_WITH_ATTENTION = ComputeConvention("MAC", calls=1, attention=True, head=False, condition_token=True)


@pytest.mark.parametrize(
    ("layers", "width", "millions"), [(8, 1024, 100.7), (12, 1024, 151.0), (7, 1152, 111.5), (6, 1024, 75.5)]
)
def test_the_weights_of_the_masked_rows_are_twelve_squares_a_layer(layers, width, millions):
    found = recount.parameters(Shape(layers, 1, width, 4 * width), MASKED, WEIGHTS)
    assert found == layers * 12 * width**2
    assert found / 1e6 == pytest.approx(millions, abs=0.05)


def test_a_layer_of_the_diffusion_rows_holds_67_million():
    shape = Shape(1, 32, 2048, 8192)
    assert recount.parameters(shape, DIFFUSION, dataclasses.replace(WEIGHTS, layer=SIXTEEN)) == 67_108_864
    labels_and_patches = 1001 * 2048 + 2 * (2 * 2 * 4) * 2048
    with_tables = ParameterConvention(SIXTEEN, biases=False, embeddings="tokens, classes")
    assert recount.parameters(shape, DIFFUSION, with_tables) == 67_108_864 + labels_and_patches


@pytest.mark.parametrize(
    ("shape", "setting", "convention", "steps", "by_hand", "gigaflops"),
    [
        (Shape(24, 1, 1024, 4096), MASKED, FLOPS, 24, 24 * 2 * 257 * 24 * 12 * 1024**2, 3725),
        (Shape(28, 1, 1152, 4608), MASKED, FLOPS, 24, 24 * 2 * 257 * 28 * 12 * 1152**2, 5501),
        (Shape(7, 4, 1152, 4608), MASKED, FLOPS, 17, 17 * 2 * 257 * 28 * 12 * 1152**2, 3896),
        (
            Shape(6, 4, 1024, 4096),
            VIDEO,
            MACS_WITH_ATTENTION,
            12,
            12 * 24 * (1025 * 12 * 1024**2 + 2 * 1025**2 * 1024),
            4334,
        ),
        (
            Shape(6, 6, 1024, 4096),
            VIDEO,
            MACS_WITH_ATTENTION,
            24,
            24 * 36 * (1025 * 12 * 1024**2 + 2 * 1025**2 * 1024),
            13002,
        ),
    ],
    ids=["masked L", "masked XL", "masked XL in 17 steps", "video", "video deeper"],
)
def test_the_compute_of_a_sample_equals_arithmetic_by_hand(shape, setting, convention, steps, by_hand, gigaflops):
    found = recount.gigaflops(shape, setting, convention, steps)
    assert found * 1e12 == pytest.approx(by_hand)
    assert found * 1e3 == pytest.approx(gigaflops, abs=0.5)


@pytest.mark.parametrize(("layer", "block"), [(PLAIN, "bert"), (DIT, "dit")])
def test_layers_with_biases_are_those_that_this_package_builds(layer, block):
    shape, architecture = Shape(3, 2, 64, 256), Architecture(unique_layers=3, max_loops=2, width=64, block=block)
    parts = accounting.parameters(NetworkSpec(architecture, "looped", MASKED.spec, timed=False))
    assert recount.parameters(shape, MASKED, ParameterConvention(layer, True, "no embeddings")) == parts["block"]


def test_tables_are_those_that_this_package_builds():
    shape, architecture = Shape(3, 2, 64, 256), Architecture(unique_layers=3, max_loops=2, width=64, block="bert")
    parts = accounting.parameters(NetworkSpec(architecture, "looped", MASKED.spec, timed=False))
    counted = [
        recount.parameters(shape, MASKED, ParameterConvention(PLAIN, True, embeddings))
        for embeddings in ("no embeddings", "tokens", "tokens, classes")
    ]
    assert counted[1] - counted[0] == parts["embedding"]
    assert counted[2] - counted[1] == parts["conditioning"]


@pytest.mark.parametrize("calls", [1, 2])
def test_the_fullest_count_of_compute_is_that_of_a_sample_of_this_package(calls):
    everything = ComputeConvention("FLOP", calls, attention=True, head=True, condition_token=True)
    found = recount.gigaflops(Shape(2, 3, 64, 256), MASKED, everything, 5)
    architecture = Architecture(unique_layers=2, max_loops=3, width=64, block="bert")
    scale = 1.0 if calls == 1 else 3.0
    expected = accounting.sample_flops(NetworkSpec(architecture, "looped", MASKED.spec, False), 3, 5, scale)
    assert found * 1e12 == pytest.approx(expected)


def test_conventions_are_all_different_by_name():
    for conventions in (PARAMETERS, COMPUTE):
        assert len({convention.name for convention in conventions}) == len(conventions)


def test_every_row_and_quantity_is_counted_under_every_convention_or_has_a_reason():
    counts: dict[tuple[str, str, str], int] = {}
    for it in recount.recount():
        key = it["table"], it["model"], it["metric"]
        counts[key] = counts.get(key, 0) + 1
        assert (it.get("value") is None) == (it.get("reason") is not None)
    assert counts["imagenet256_masked", "MaskGIT-L", "params_m"] == len(PARAMETERS)
    assert counts["imagenet256_masked", "MaskGIT-L", "gflops_k"] == len(COMPUTE)
    assert counts["ucf101_masked", "MAGVIT-L", "gflops_k"] == len(COMPUTE) / 2  # video is not guided
    assert counts["ucf101_masked", "MaGNeTS", "gflops_k"] == 1
    assert len(counts) == 4 * (5 + 6 + 5 + 4)
