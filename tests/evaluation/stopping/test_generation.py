"""Samples with their signals, and stopping inside sampling, against plain sampling at fixed loop counts."""

from __future__ import annotations

import numpy as np
import pytest

from eltbench.core.config import Architecture, Run
from eltbench.data import latin
from eltbench.evaluation.stopping.generation import best_of, distance, generate, sample_errors
from eltbench.evaluation.stopping.generation_scores import score
from eltbench.training.loop import build_engine, parts
from eltbench.training.model import Model

WORLDS = [("diffusion", "digits"), ("masked", "latin"), ("masked", "digits-codes")]
EXITS, STEPS = (1, 2, 3), {"steps": 3}


def fresh(task, dataset, trainer="elt", **shape) -> Model:
    """A model whose loops differ: adaLN-Zero would start as the identity, hence the plain block in both tasks."""
    architecture = Architecture(
        **{"unique_layers": 1, "max_loops": 3, "width": 16, "heads": 2, "block": "bert", **shape}
    )
    run = Run(trainer, task, dataset, architecture=architecture)
    made = parts(run)
    return Model(run, build_engine(run, made), made)


def labels_of(model, count=12):
    return model.dataset.heldout().labels[:count]


@pytest.mark.parametrize("world", WORLDS)
def test_without_a_rule_samples_are_those_of_plain_sampling(world):
    model = fresh(*world)
    labels = labels_of(model)
    found = generate(model, labels, EXITS, seed=5, sampling=STEPS)
    assert np.array_equal(found.samples, model.sample(labels, 3, seed=5, **STEPS))
    assert np.array_equal(found.loops, np.full((3, 12), 3))
    for name, values in found.signals.items():
        assert values.shape == (3, 3, 12), name
    totals = found.summed()
    by_hand = sum(found.signals["relative_update_norm"][step, 2] for step in range(3))
    np.testing.assert_allclose(totals["relative_update_norm"], by_hand)
    assert all(np.isfinite(total).all() for total in totals.values())


@pytest.mark.parametrize("world", WORLDS)
def test_a_fixed_rule_is_plain_sampling_at_fewer_loops_under_the_same_noise(world):
    model = fresh(*world)
    labels = labels_of(model)
    for loops in (1, 2):
        found = generate(model, labels, EXITS, sampling=STEPS, rule="fixed", threshold=-loops)
        expected = model.sample(labels, loops, **STEPS)
        assert np.array_equal(found.loops, np.full((3, 12), loops))
        np.testing.assert_allclose(found.samples, expected, atol=1e-5)


def test_every_item_stops_where_its_own_signal_says_so():
    model = fresh("masked", "latin")
    labels = labels_of(model, 40)
    full = generate(model, labels, EXITS, sampling={"steps": 1})
    changes = full.signals["kl_to_previous"][0, 1]  # at exit 2 of the only step
    found = generate(model, labels, EXITS, sampling={"steps": 1}, rule="kl", threshold=float(np.median(changes)))
    early = changes <= np.median(changes)
    assert np.array_equal(found.loops[0], np.where(early, 2, 3))
    assert np.array_equal(found.samples[~early], full.samples[~early])
    assert np.array_equal(found.samples[early], model.sample(labels, 2, steps=1)[early])


def test_a_universal_transformer_tells_how_long_it_pondered():
    model = fresh("masked", "latin", "universal-transformer")
    assert (generate(model, labels_of(model), EXITS, sampling=STEPS).summed()["ponder"] >= 3).all()


def test_the_path_ends_in_the_sample_and_noise_falls_along_it():
    for world in WORLDS:
        model = fresh(*world)
        found = generate(model, labels_of(model), EXITS, seed=5, sampling=STEPS)
        states = list(model.trajectory(labels_of(model), 3, seed=5, **STEPS))
        assert np.array_equal(found.path, np.stack(states))
        assert np.array_equal(found.samples, found.path[-1])
        assert (np.diff(found.noise) < 0).all()
        if model.spec.kind == "tokens":
            masked = [1.0, *(float((state == model.spec.vocabulary).mean()) for state in states[:-1])]
            np.testing.assert_allclose(found.noise, masked)


def test_a_gate_and_its_rule_go_together():
    model = fresh("masked", "latin")
    with pytest.raises(ValueError, match="belongs to the rule 'learned-gate' alone, given None with 'learned-gate'"):
        generate(model, labels_of(model), EXITS, sampling=STEPS, rule="learned-gate", threshold=0.5)


def test_guidance_is_refused():
    model = fresh("diffusion", "digits")
    with pytest.raises(ValueError, match=r"one prediction a step, given guidance 2\.0"):
        generate(model, labels_of(model), EXITS, sampling={"guidance_scale": 2.0})


def test_judges_find_nothing_wrong_with_real_items_and_much_with_noise():
    digits, squares = fresh("diffusion", "digits"), fresh("masked", "latin")
    heldout = digits.dataset.heldout()
    rng = np.random.default_rng(0)
    noise = rng.uniform(-1, 1, heldout.values.shape).astype(np.float32)
    real, drawn = (sample_errors(digits, values, heldout.labels) for values in (heldout.values, noise))
    assert real["distance_to_real"].max() < 1e-3 < drawn["distance_to_real"].min()
    assert real["own_label_missed"].mean() < 0.05 < 0.5 < drawn["own_label_missed"].mean()
    wrong = np.zeros((3, 16), np.int32)
    both = np.concatenate([latin.squares()[:4], wrong])
    assert sample_errors(squares, both, np.zeros(7, int))["invalid"].tolist() == [0, 0, 0, 0, 1, 1, 1]


def test_the_best_of_each_label_are_kept():
    signal, labels = np.array([3.0, 1, 2, 0, 9, 8, 7, 6, 5]), np.array([0, 0, 0, 0, 1, 1, 1, 1, 2])
    assert best_of(signal, labels, 0.5).tolist() == [1, 3, 6, 7, 8]


def test_distances_are_shares_of_tokens_and_root_mean_squares():
    assert distance(np.array([[1, 2, 3, 4]]), np.array([[1, 2, 0, 0]])).tolist() == [0.5]
    assert distance(np.full((1, 2, 2), 3.0), np.zeros((1, 2, 2))).tolist() == [3.0]


def test_more_samples_than_held_out_items_are_refused():
    model = fresh("masked", "latin")
    settings = {"samples": 200, "sampling": {"steps": 2}, "exits": [1, 2, 3], "levels": [0.2], "delta": 0.1}
    with pytest.raises(ValueError, match="at most the 192 held-out items, given 200"):
        score(model, settings, 2, np.random.default_rng(0))
