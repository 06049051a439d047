"""Scores of made-up signals whose worth is known: the error itself, the corruption level, noise."""

from __future__ import annotations

import numpy as np
import pytest

from eltbench.evaluation.signals.per_sample import PerSample
from eltbench.evaluation.signals.signal_scores import FAMILIES, event, of_tokens, part, score

ITEMS, DRAWS, EXITS = 300, 6, (1, 2)


def made_up(**signals) -> PerSample:
    """The error grows with the level and a little by itself; a signal is a function of (level, own part, noise)."""
    rng = np.random.default_rng(0)
    level, own, noise = rng.random((3, ITEMS * DRAWS))
    error = 10 * level + own
    measured = {name: np.stack([of(level, own, noise)] * len(EXITS)) for name, of in signals.items()}
    item, draw = np.tile(np.arange(ITEMS), DRAWS), np.repeat(np.arange(DRAWS), ITEMS)
    return PerSample(EXITS, item, draw, np.full(len(item), -1), level, {"x0_error": np.stack([error] * 2)}, measured)


def parted_of(observed, strata=40):
    return part(observed, strata, np.random.default_rng(1))


def value(rows, **wanted):
    (row,) = [row for row in rows if all(row.get(name) == asked for name, asked in wanted.items())]
    return row["value"]


def test_the_three_sets_share_no_item_and_hold_all():
    observed = made_up(entropy=lambda level, own, noise: own)
    parted = parted_of(observed)
    sets = parted.fit, parted.calibrate, parted.test
    items = [set(observed.item[units]) for units in sets]
    assert sum(map(len, items)) == len(set().union(*items)) == ITEMS
    assert np.array_equal(np.sort(np.concatenate(sets)), np.arange(ITEMS * DRAWS))


def test_the_event_is_a_quarter_of_the_items_in_every_stratum():
    observed = made_up(entropy=lambda level, own, noise: own)
    parted = parted_of(observed, strata=4)
    happened = event(observed.error[0], parted)
    shares = [happened[parted.strata == stratum].mean() for stratum in range(4)]
    np.testing.assert_allclose(shares, 0.25, atol=0.06)


@pytest.mark.slow
def test_a_signal_of_the_level_alone_orders_all_items_and_tells_nothing_within_strata():
    observed = made_up(
        corruption_level=lambda level, own, noise: level,
        kl_to_previous=lambda level, own, noise: own,
        relative_update_norm=lambda level, own, noise: noise,
    )
    rows = score(observed, parted_of(observed), deepest=2)
    at = {"loops": 2, "target": "x0_error"}
    assert value(rows, signal="corruption_level", metric="spearman", scope="pooled", **at) > 0.99
    assert value(rows, signal="corruption_level", metric="auroc", scope="within", **at) == pytest.approx(0.6, abs=0.1)
    assert value(rows, signal="corruption_level", metric="auroc", scope="pooled", **at) > 0.99
    assert value(rows, signal="kl_to_previous", metric="auroc", scope="within", **at) > 0.95
    assert value(rows, signal="kl_to_previous", metric="auroc", scope="pooled", **at) < 0.6
    assert value(rows, signal="relative_update_norm", metric="auroc", scope="within", **at) == pytest.approx(
        0.5, abs=0.08
    )
    gains = {row["signal"]: row for row in rows if row["metric"] == "auroc_gain"}
    assert gains["disagreement"]["value"] > 0.25
    assert gains["disagreement"]["reason"] == "kl_to_previous over corruption_level"
    assert gains["convergence"]["value"] < 0
    assert gains["probe_logistic"]["value"] > 0.25


def test_what_finds_the_models_own_error_is_asked_apart_from_what_finds_the_loss():
    """The loss is mostly luck that one signal knows; the model's error is what another knows."""
    observed = made_up(entropy=lambda level, own, noise: own, kl_to_previous=lambda level, own, noise: noise)
    noise = observed.signals["kl_to_previous"]
    split = PerSample(**{**vars(observed), "errors": {**observed.errors, "model_error": noise}})
    gains = {
        row["target"]: row["value"]
        for row in score(split, parted_of(split, 4), deepest=2)
        if (row["metric"], row["signal"]) == ("auroc_gain", "disagreement")
    }
    assert gains["model_error"] == pytest.approx(0.5, abs=0.06)
    assert gains["x0_error"] < 0


def test_scores_beside_the_auroc_are_given_at_the_deepest_exit_alone():
    observed = made_up(entropy=lambda level, own, noise: own)
    rows = score(observed, parted_of(observed, 4), deepest=2)
    assert {row["metric"] for row in rows if row["loops"] == 1} == {"auroc", "risk_at_coverage"}
    beside = {"auroc", "auprc", "aurc", "excess_aurc", "spearman", "ece_after", "brier_after"}
    assert beside <= {row["metric"] for row in rows if row["loops"] == 2}


def test_isotonic_regression_makes_the_probability_of_wrong_tokens_honest():
    rng = np.random.default_rng(7)  # another stream than that of the signals
    observed = made_up(max_softmax=lambda level, own, noise: own**4)
    wrong = (rng.random(observed.error.shape) < observed.signals["max_softmax"] ** 0.25).astype(float)
    tokens = PerSample(**{**vars(observed), "errors": {"negative_log_likelihood": wrong, "error_rate": wrong}})
    rows = of_tokens(tokens, parted_of(tokens, 4), deepest=2)
    before, after = (value(rows, metric=name, scope="tokens") for name in ("ece_before", "ece_after"))
    assert before == pytest.approx(1 / 2 - 1 / 5, abs=0.03)  # the mean of u - u⁴
    assert after < 0.06


def test_a_signal_that_is_not_finite_at_an_item_is_reported_with_it_and_not_scored():
    observed = made_up(entropy=lambda level, own, noise: np.where(np.arange(len(own)) == 5, np.inf, own))
    rows = score(observed, parted_of(observed, 4), deepest=2)
    told = [row for row in rows if row["signal"] == "entropy"]
    assert {row["metric"] for row in told} == {"auroc"}
    assert all(row["value"] is None and "inf at item 5" in row["reason"] for row in told)
    assert {row["signal"] for row in rows} == {"entropy", "oracle"}


def test_no_signal_is_in_two_families_and_none_of_them_needs_more_than_its_own_exits():
    names = [name for family in FAMILIES.values() for name in family]
    assert len(names) == len(set(names))
    assert not [name for name in names if "deepest" in name or "ensemble" in name]
