"""Sample quality by loop count: complete rows, floors beside them, and broken samples that stop nothing."""

from __future__ import annotations

import numpy as np
import pytest

from eltbench import studies
from eltbench.core.config import Architecture, Run
from eltbench.evaluation.quality import features, samples
from eltbench.evaluation.quality.distances import NAMES, kernel_null, real_floor
from eltbench.evaluation.quality.samples import check_scores, sample_scores
from eltbench.evidence import results
from eltbench.training import loop as training
from eltbench.training.model import Model

SCORES = set(NAMES.values())
MEMORISING = {"nearest_training_distance", "heldout_nearest_training_distance"}
SETTINGS = {
    "sample_loops": [1, 3],
    "samples": 20,
    "sampling": {"steps": 2, "guidance_scale": 1.5},
    "feature_extractors": ["digits-conv"],
}


def model_of(task="diffusion", dataset="digits", block="dit"):
    run = Run("elt", task, dataset, architecture=Architecture(1, 2, width=8, heads=2, block=block))
    made = training.parts(run)
    return Model(run, training.build_engine(run, made), made)


def by(rows, **where):
    return [row for row in rows if all(row.get(name) == value for name, value in where.items())]


@pytest.fixture
def sampler(monkeypatch):
    """A model whose samples the test chooses by loop count, and the labels that it was asked for."""
    model, asked = model_of(), []

    def choose(make):
        def sample(labels, loops, **settings):
            asked.append((labels, loops, settings))
            return make(labels, loops)

        monkeypatch.setattr(model, "sample", sample)
        return model, asked

    return choose


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "dataset", "block", "sampler"),
    [("diffusion", "digits", "dit", "ddim"), ("masked", "digits-codes", "bert", "maskgit")],
)
def test_every_loop_count_has_every_score_and_what_it_depends_on(task, dataset, block, sampler):
    model = model_of(task, dataset, block)
    rows = sample_scores(model, SETTINGS)
    for loops in (1, 3):
        assert {row["metric"] for row in by(rows, loops=loops)} == SCORES | MEMORISING
    assert len(rows) == 2 * len(SCORES | MEMORISING) + len(SCORES) + 1
    for row in rows:
        known = (row["split"], row["sampler"], row["sampling_steps"], row["guidance_scale"], row["n_samples"])
        assert known == ("heldout", sampler, 2, 1.5, 20)
        assert np.isfinite(row["value"])
        if row["metric"] not in MEMORISING:
            assert row["feature_extractor"].startswith("digits-conv-")
            assert isinstance(row["higher_is_better"], bool)
    columns = studies.get("extrapolation").columns
    assert len(results.stamp(rows, model.run, "0" * 16, "0" * 12, columns)) == len(rows)


@pytest.mark.slow
def test_real_images_at_the_same_size_stand_beside_every_score():
    model = model_of()
    rows = by(sample_scores(model, SETTINGS), loops=None)
    expected = {f"{score.metric}_of_real_images": score.value for score in real_floor(model.dataset, 20)}
    expected["kernel_distance_null_deviation"] = kernel_null(model.dataset, 20)
    assert {row["metric"]: row["value"] for row in rows} == pytest.approx(expected)


@pytest.mark.slow
def test_labels_are_those_of_the_images_that_samples_are_compared_with(sampler):
    digits = model_of().dataset.heldout()
    model, asked = sampler(lambda labels, loops: digits.values[: len(labels)])
    rows = sample_scores(model, SETTINGS)
    assert [loops for _, loops, _ in asked] == [1, 3]
    for labels, _, settings in asked:
        assert np.array_equal(labels, digits.labels[:20])
        assert settings == {**SETTINGS["sampling"], "seed": model.run.seed}
    scores = {row["metric"]: row["value"] for row in by(rows, loops=1)}
    assert scores["frechet_distance"] == pytest.approx(0, abs=1e-3)  # compared with themselves
    assert (scores["precision"], scores["recall"]) == (1.0, 1.0)
    assert scores["nearest_training_distance"] == scores["heldout_nearest_training_distance"] > 0


@pytest.mark.slow
def test_copies_of_training_images_are_told_by_their_distance(sampler):
    training_images = model_of().dataset.training().values
    model, _ = sampler(lambda labels, loops: training_images[: len(labels)])
    scores = {row["metric"]: row["value"] for row in by(sample_scores(model, SETTINGS), loops=1)}
    assert scores["nearest_training_distance"] == 0.0
    assert scores["heldout_nearest_training_distance"] > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_samples_that_are_not_finite_leave_every_score_empty_with_the_reason(sampler, broken):
    def make(labels, loops):
        values = np.random.default_rng(0).uniform(-1, 1, (len(labels), 8, 8, 1)).astype(np.float32)
        if loops == 1:
            values[[2, 5, 5], [0, 1, 2]] = broken
        return values

    model, _ = sampler(make)
    rows = sample_scores(model, SETTINGS)
    empty = by(rows, loops=1)
    assert {row["metric"] for row in empty} == SCORES | MEMORISING
    assert {(row["value"], row["reason"]) for row in empty} == {(None, "2 of 20 samples are not finite")}
    assert all(np.isfinite(row["value"]) for row in by(rows, loops=3))
    stamped = results.stamp(rows, model.run, "0" * 16, "0" * 12, studies.get("extrapolation").columns)
    assert stamped["value"].isna().sum() == len(empty)


@pytest.mark.slow
def test_white_samples_are_bad_samples_and_not_refused(sampler):
    model, _ = sampler(lambda labels, loops: np.ones((len(labels), 8, 8, 1), np.float32))
    assert all(np.isfinite(row["value"]) for row in sample_scores(model, SETTINGS))


def checked(
    dataset="digits", label_dropout=0.1, samples=20, guidance_scale=1.0, extractors=("digits-conv",), **changes
):
    made = training.parts(model_of("masked", dataset, "bert").run if dataset != "digits" else model_of().run)
    for name, value in changes.items():
        object.__setattr__(made.dataset, name, value)
    check_scores(made, label_dropout, samples, guidance_scale, list(extractors))


def test_what_can_be_scored_is_not_refused():
    checked()
    checked("digits-codes", guidance_scale=2.0)
    checked("relay", guidance_scale=2.0)  # has no images, so no scores


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"guidance_scale": 2.0, "label_dropout": 0.0}, r"guidance_scale is 2, .* label_dropout = 0"),
        (
            {"images": lambda values: np.zeros((1, 28, 28, 1))},
            r"takes images \(n, 8, 8, 1\), given shape \(1, 28, 28, 1\)",
        ),
        ({"images": lambda values: np.zeros((1, 8, 8, 2))}, r"expected \(n, H, W, 1 or 3\)"),
        ({"extractors": ["inception-v3-compat"]}, "needs its weights and nothing is downloaded"),
        ({"heldout": lambda: model_of().dataset.heldout().select(slice(4))}, "at least 5 held-out images are needed"),
        ({"training": lambda: model_of().dataset.training().select(slice(12))}, "training images, .* needed"),
    ],
)
def test_samples_that_could_not_be_scored_are_refused_with_the_way_out(changes, message, monkeypatch):
    monkeypatch.setattr(features, "inception_weights", lambda: None)
    with pytest.raises(ValueError, match=f"^measurement: 20 samples of 'digits' .*{message}.*measurement.samples = 0$"):
        checked(**changes)


def test_no_more_samples_are_drawn_than_there_are_images_to_compare_with(sampler, monkeypatch):
    monkeypatch.setattr(samples, "kernel_null", lambda dataset, count, extractor: 1.0)
    model, asked = sampler(lambda labels, loops: model_of().dataset.heldout().values[: len(labels)])
    rows = sample_scores(model, {**SETTINGS, "samples": 10_000, "sample_loops": [2]})
    assert len(asked[0][0]) == 357
    assert {row["n_samples"] for row in rows} == {357}


def test_a_world_without_images_and_a_model_that_is_not_sampled_have_no_scores(sampler):
    assert sample_scores(model_of("masked", "relay", "bert"), SETTINGS) == []
    model, asked = sampler(lambda labels, loops: None)
    assert sample_scores(model, {**SETTINGS, "sample_loops": []}) == []
    assert asked == []


def test_impossible_loops_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        sample_scores(model_of(), {**SETTINGS, "sample_loops": [0]})
