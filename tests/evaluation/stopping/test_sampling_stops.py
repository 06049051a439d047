"""Stopping inside sampling: what rows say of each step, of the whole, and of what could not be tried."""

from __future__ import annotations

import numpy as np
import pytest

from eltbench.core.config import Architecture, Run
from eltbench.evaluation.stopping import sampling_stops
from eltbench.evaluation.stopping.generation import generate
from eltbench.evaluation.stopping.generation_scores import score
from eltbench.evidence.intervals import NonFiniteError
from eltbench.training.loop import build_engine, parts
from eltbench.training.model import Model

SAMPLES, STEPS, EXITS = 192, 3, [1, 2, 3]


def scored(trainer="elt", **changes):
    """Rows of an untrained model of Latin squares, whose loops differ."""
    architecture = Architecture(unique_layers=1, max_loops=3, width=16, heads=2, block="bert")
    run = Run(trainer, "masked", "latin", architecture=architecture)
    made = parts(run)
    model = Model(run, build_engine(run, made), made)
    settings = {"samples": SAMPLES, "sampling": {"steps": STEPS}, "exits": EXITS, "levels": [0.2], "delta": 0.1}
    return model, score(model, settings | changes, 10, np.random.default_rng(0))


@pytest.fixture(scope="module")
def rows():
    return scored()[1]


def found(rows, **wanted):
    return [row for row in rows if all(row.get(name) == asked for name, asked in wanted.items())]


@pytest.mark.slow
def test_signals_foretell_samples_no_better_than_the_error_itself(rows):
    assert {row["target"] for row in rows if "signal" in row} == {"invalid"}
    gains = {row["signal"]: row["value"] for row in found(rows, metric="selection_gain")}
    assert gains["oracle"] == max(gains.values())


@pytest.mark.slow
def test_every_online_rule_that_can_be_told_is_tried(rows):
    online = {"fixed", "entropy", "entropy-difference", "kl", "min-p-kl", "latent-difference", "cosine"}
    tried = {row["rule"] for row in found(rows, metric="distance_to_full_loops_at_step")}
    assert tried == online | {"argmax-stability", "learned-gate"}


def test_steps_add_up_to_the_trajectory_and_the_last_is_the_sample(rows):
    for whole in found(rows, metric="distance_to_full_loops"):
        steps = found(rows, metric="distance_to_full_loops_at_step", rule=whole["rule"], setting=whole.get("setting"))
        if whole["value"] is None:
            continue
        assert [row["sampling_step"] for row in steps] == [1, 2, 3]
        assert steps[0]["noise"] == 1 > steps[1]["noise"] > steps[2]["noise"]
        assert steps[-1]["value"] == whole["value"]
        for name in ("loops_per_sample", "loops_per_batch"):
            assert np.mean([row[name] for row in steps]) == pytest.approx(whole[name])
        assert whole["loops_per_sample"] <= whole["loops_per_batch"] <= 3
        errors = found(rows, metric="sample_error", rule=whole["rule"], setting=whole["setting"])
        assert [row["target"] for row in errors] == ["invalid"]


def test_never_early_is_all_loops_and_a_fixed_depth_is_that_depth_at_every_step(rows):
    for rule in ("fixed", "kl", "learned-gate"):
        (never,) = found(rows, metric="distance_to_full_loops", rule=rule, setting=0)
        assert (never["value"], never["loops_per_sample"], never["loops_per_batch"]) == (0, 3, 3)
    last = max(row["setting"] for row in found(rows, rule="fixed", metric="sample_error"))
    shallow = found(rows, metric="distance_to_full_loops_at_step", rule="fixed", setting=last)
    assert {(row["loops_per_sample"], row["loops_per_batch"]) for row in shallow} == {(1, 1)}


def test_a_rule_that_could_never_stop_early_says_why(rows):
    (row,) = found(rows, rule="acceleration")  # first defined at the last exit, and it wants two hits
    assert row["value"] is None
    assert row["reason"] == "it is not defined at as many exits before the last as it wants hits"


def test_guarantees_hold_and_savings_are_also_those_over_a_fixed_depth(rows):
    assert max(row["value"] for row in found(rows, metric="violations")) <= 0.1
    for metric in ("loops_saved", "loops_saved_by_batch"):
        (fixed,) = found(rows, rule="fixed", metric=metric)
        for rule in ("kl", "learned-gate"):
            (mine,), (over,) = (found(rows, rule=rule, metric=of) for of in (metric, f"{metric}_over_fixed"))
            assert over["value"] == pytest.approx(mine["value"] - fixed["value"])


@pytest.mark.slow
def test_a_universal_transformer_stops_by_its_halting_and_too_few_samples_say_how_many_it_takes():
    model, rows = scored("universal-transformer", levels=[0.05], samples=160)
    (never, *earlier) = found(rows, metric="distance_to_full_loops", rule="halting")
    assert never["loops_per_sample"] == 3 > earlier[-1]["loops_per_sample"]
    (row,) = found(rows, rule="halting", guarantee="learn then test")
    assert (row["value"], row["reason"]) == (None, "40 samples calibrate; it takes 45")
    labels = model.dataset.heldout().labels[:12]
    full = generate(model, labels, EXITS, sampling={"steps": 2})
    halted = generate(model, labels, EXITS, sampling={"steps": 2}, rule="halting", threshold=0.0)
    first = np.argmax(
        np.concatenate([full.signals["unhalted"][:, :-1] <= 0, np.ones((2, 1, 12), bool)], axis=1), axis=1
    )
    assert np.array_equal(halted.loops[0], first[0] + 1)


def test_signals_that_leave_no_choice_and_samples_that_are_all_alike_are_told(monkeypatch):
    monkeypatch.setattr(
        "eltbench.evaluation.stopping.generation_scores.sample_errors", lambda *_: {"invalid": np.zeros(180)}
    )
    _, rows = scored(samples=180, exits=[1])
    told = {row["signal"]: row["reason"] for row in rows if row["metric"] == "auroc"}
    assert told["corruption_level"] == "the same of all samples"
    assert told["entropy"] == "no sample is worse than another"


def test_a_gate_that_meets_what_is_no_number_says_so_and_the_other_rules_go_on(monkeypatch):
    drawn = sampling_stops.generate

    def spoilt(*given, gate=None, **named):
        if gate is not None:
            raise NonFiniteError("probe: signal 'entropy' is nan at item 3")
        return drawn(*given, **named)

    monkeypatch.setattr(sampling_stops, "generate", spoilt)
    _, rows = scored(samples=180, exits=[1, 2])
    (row,) = found(rows, rule="learned-gate")
    assert (row["value"], row["reason"]) == (None, "probe: signal 'entropy' is nan at item 3")
    assert found(rows, rule="entropy", metric="sample_error")
