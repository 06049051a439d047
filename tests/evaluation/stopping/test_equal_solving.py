"""Stopping on puzzles whose exits are known: the threshold that calibration chooses, what it saves, and on which."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from two_backends import small_run

from eltbench import accounting
from eltbench.data.base import Clean
from eltbench.evaluation import solving
from eltbench.evaluation.signals.per_sample import PerSample, observe
from eltbench.evaluation.signals.signal_scores import part
from eltbench.evaluation.stopping import early_exits, equal_solving
from eltbench.training.loop import build_engine, parts
from eltbench.training.model import Model

LOOPS, ITEMS, TRAINED = (1, 2, 3, 4), 400, 2
SUDOKU = {"size": 4, "puzzles": 64, "hardest": 1, "heldout_items": 140}


def made_up(lost: float = 0.0) -> tuple[SimpleNamespace, PerSample, np.ndarray]:
    """Items of difficulty d are solved from exit d on, those of 5 never; the entropy tells, the level nothing.

    lost: the share of the items of difficulty 1 that only their first exit solves.
    """
    rng = np.random.default_rng(0)
    difficulty = rng.integers(1, 6, size=ITEMS)
    right = np.asarray(LOOPS)[:, None] >= difficulty
    right[1:, (difficulty == 1) & (rng.random(ITEMS) < lost)] = False
    solved_from = np.asarray(LOOPS)[:, None] >= difficulty
    told = 1.0 - solved_from
    zeros = np.zeros(ITEMS, int)
    errors = {"negative_log_likelihood": 1.0 - right, "error_rate": 0.25 * ~right}
    signals = {"entropy": told, "kl_to_previous": np.vstack([np.full((1, ITEMS), np.nan), told[1:]])}
    observed = PerSample(LOOPS, np.arange(ITEMS), zeros, zeros - 1, rng.random(ITEMS), errors, signals)
    clean = Clean(zeros[:, None], zeros)
    dataset = SimpleNamespace(heldout=lambda: clean, difficulty=lambda _: difficulty, hardest_trained=TRAINED)
    network = parts(small_run("elt", "masked", "sudoku", block="bert")).network
    return SimpleNamespace(dataset=dataset, parts=SimpleNamespace(network=network)), observed, difficulty


def found(model, observed, splits=20):
    parted = part(observed, 4, np.random.default_rng(1))
    rules = early_exits.signals_of_rules(observed, parted)
    rows = equal_solving.rows(model, observed, parted, rules, np.random.default_rng(2), splits)
    rest = np.concatenate([parted.calibrate, parted.test])

    def value(metric, rule, stratum=None):
        (row,) = [row for row in rows if (row["metric"], row["rule"], row.get("stratum")) == (metric, rule, stratum)]
        return row["value"]

    return rows, value, observed.item[rest]


def test_a_rule_that_knows_where_items_are_solved_saves_their_loops_and_loses_none():
    model, observed, difficulty = made_up()
    rows, value, rest = found(model, observed)
    assert value("solved_over_full", "entropy") == 0
    assert value("solved", "entropy") == pytest.approx(np.mean(difficulty[rest] < 5), abs=0.02)
    for level in (1, 2, 3, 4):  # each stops where it is solved, also in the mean over splits
        assert value("loops_run", "entropy", f"difficulty {level}") == level
        assert value("solved", "entropy", f"difficulty {level}") == 1
    assert value("loops_run", "entropy", "difficulty 5") == 4
    assert value("solved", "entropy", "difficulty 5") == 0
    assert value("loops_run", "kl", "difficulty 1") == 2  # before which nothing can have changed
    saved = 1 - np.minimum(difficulty[rest], 4).mean() / 4
    assert value("loops_saved", "entropy") == pytest.approx(saved, abs=0.01)
    assert value("loops_by_difficulty", "entropy") > 0.95
    harder = difficulty[rest] > TRAINED
    for group, within in ((solving.HARDER, harder), (solving.AS_TRAINED, ~harder)):
        expected = np.minimum(difficulty[rest][within], 4).mean()
        assert value("loops_run", "entropy", group) == pytest.approx(expected, abs=0.02)
    assert not [row for row in rows if row["rule"] == "oracle"]


def test_a_fixed_depth_that_would_lose_items_runs_all_loops_and_never_stops_later_on_harder_ones():
    _, value, _ = found(*made_up()[:2])
    assert value("loops_saved", "fixed") == value("flops_saved", "fixed") == 0
    assert value("loops_by_difficulty", "fixed") == 0
    assert value("loops_saved_over_fixed", "entropy") == value("loops_saved", "entropy")


def test_where_early_exits_solve_more_a_rule_gains_them():
    """Items that only the first exit solves make a boldest threshold that solves more than the deepest exit."""
    model, observed, _ = made_up(lost=0.5)
    _, value, rest = found(model, observed)
    right = observed.errors["error_rate"][:, rest] == 0
    at_best = right[0] | right[-1]  # the rule stops those at exit 1, whose entropy is as low
    assert value("solved_over_full", "entropy") == pytest.approx(at_best.mean() - right[-1].mean(), abs=0.02)
    assert value("solved_over_full", "entropy") > 0.05


def test_flops_are_those_of_the_loops_run_with_the_head_read_after_each():
    model, observed, difficulty = made_up()
    _, value, rest = found(model, observed, splits=100)
    network = model.parts.network
    cost = {at: accounting.flops(network, at, at) for at in LOOPS}
    taken = np.mean([cost[min(level, 4)] for level in difficulty[rest]])
    assert value("flops_saved", "entropy") == pytest.approx(1 - taken / accounting.flops(network, 4), abs=0.01)
    assert value("flops_saved", "entropy") < value("loops_saved", "entropy")


def test_the_threshold_is_the_boldest_that_solves_as_many_calibration_items():
    solved = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 0], [1, 1, 1, 0]], bool)
    ran = np.array([[4, 4, 4, 4], [3, 3, 3, 3], [1, 1, 1, 1], [3, 3, 4, 3]])
    assert equal_solving.boldest(solved, ran, solved[0]) == 1  # 3 solves more, for more loops; 2 solves too few
    assert equal_solving.boldest(solved[:1], ran[:1], solved[0]) == 0


def test_thresholds_are_of_fit_items_and_what_is_reported_of_neither_those_nor_calibration_items(monkeypatch):
    model, observed, _ = made_up()
    seen: dict[str, list] = {"calibrate": [], "test": []}
    original = equal_solving.Stopped.of.__func__

    def noted(cls, right, ran, stop, halves):
        for calibrate, test in halves:
            seen["calibrate"].append(set(calibrate.tolist()))
            seen["test"].append(set(test.tolist()))
        return original(cls, right, ran, stop, halves)

    monkeypatch.setattr(equal_solving.Stopped, "of", classmethod(noted))
    parted = part(observed, 4, np.random.default_rng(1))
    rest = np.concatenate([parted.calibrate, parted.test])
    rules = early_exits.signals_of_rules(observed, parted)
    changed = {name: values.copy() for name, values in rules.items()}
    for values in changed.values():
        values[:, parted.fit] = -np.inf  # so that only fit items could bring this threshold in
    equal_solving.rows(model, observed, parted, rules, np.random.default_rng(2), 5)
    assert all(not calibrate & test for calibrate, test in zip(seen["calibrate"], seen["test"], strict=True))
    assert all(max(both) < len(rest) for both in seen["test"])
    with pytest.raises(ValueError, match="without a finite value"):
        equal_solving.rows(model, observed, parted, changed, np.random.default_rng(2), 5)


@pytest.mark.parametrize("dataset", ["sudoku", "maze"])
def test_an_item_without_a_wrong_cell_is_one_that_exact_solving_counts(dataset, monkeypatch):
    options = SUDOKU if dataset == "sudoku" else {"rooms": 3, "longest": 4, "furthest": 6, "heldout_items": 140}
    run = replace(small_run("elt", "masked", dataset, block="bert"), dataset_options=tuple(options.items()))
    made = parts(run)
    model = Model(run, build_engine(run, made), made)
    predict, noise = model.engine.predict, np.random.default_rng(0).normal(size=(3, 140, *made.dataset.spec.grid, 8))

    def mostly_right(batch, exits, fields=("prediction",)):
        known = np.eye(model.spec.vocabulary)[model.engine.numpy(batch.target)]
        of_noise = noise.reshape(3, 140, -1, 8)[..., : model.spec.vocabulary]
        outputs = predict(batch, exits, fields)
        logits = [model.engine.ops.asarray((known * (2 + at) + one).astype("f4")) for at, one in enumerate(of_noise)]
        return [output._replace(prediction=one) for output, one in zip(outputs, logits, strict=True)]

    monkeypatch.setattr(model.engine, "predict", mostly_right)
    right = solving.solved(model, model.dataset.heldout(), (1, 2, 3))
    assert 0 < right.mean() < 1
    assert np.array_equal(equal_solving.unsolved(observe(model, (1, 2, 3), 1)).error == 0, right)
