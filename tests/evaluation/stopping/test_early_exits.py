"""Early exits of made-up items whose errors at every exit are known."""

from __future__ import annotations

import numpy as np
import pytest

from eltbench.evaluation.signals.per_sample import PerSample
from eltbench.evaluation.signals.signal_scores import part
from eltbench.evaluation.stopping import early_exits

LOOPS = (1, 2, 3, 4)
ITEMS = 400


def made_up(hard_share=0.3, items=ITEMS) -> PerSample:
    """Easy items are right from exit 1 on, hard ones at exit 4 alone; the entropy tells which, the level nothing."""
    rng = np.random.default_rng(0)
    hard = rng.random(items) < hard_share
    wrong = np.stack([hard, hard, hard, np.zeros(items, bool)]).astype(float)
    told = 0.1 + wrong + 0.01 * rng.random((4, items))
    zeros = np.zeros(items, int)
    errors = {"negative_log_likelihood": wrong, "error_rate": wrong}
    signals = {"entropy": told, "kl_to_previous": np.vstack([np.full((1, items), np.nan), told[1:]])}
    return PerSample(LOOPS, np.arange(items), zeros, zeros - 1, rng.random(items), errors, signals)


def all_of(observed):
    parted = part(observed, 4, np.random.default_rng(1))
    return parted, early_exits.signals_of_rules(observed, parted)


def found(rows, **wanted):
    return [row for row in rows if all(row.get(name) == asked for name, asked in wanted.items())]


def test_rules_are_those_whose_signals_are_there():
    _, rules = all_of(made_up())
    assert set(rules) == {"fixed", "entropy", "kl", "learned-gate", "oracle"}
    assert all(values.shape == (4, ITEMS) for values in rules.values())


def test_a_rule_that_knows_the_hard_items_costs_nothing_where_fixed_depth_pays_for_them():
    observed = made_up()
    parted, rules = all_of(observed)
    rows = early_exits.curves(observed, parted, rules)
    hard = observed.error[0, parted.test].mean()
    (fixed,) = found(rows, rule="fixed", metric="excess_error_at_saving", saved=0.5)
    assert fixed["value"] == pytest.approx(hard)
    (told,) = found(rows, rule="oracle", metric="excess_error_at_saving", saved=0.5)
    assert told["value"] == 0
    never = found(rows, rule="entropy", setting=0)[0]
    assert (never["value"], never["loops_per_sample"], never["loops_per_batch"]) == (0, 4, 4)
    for row in found(rows, metric="excess_error"):
        assert row["loops_per_sample"] <= row["loops_per_batch"] <= 4


def test_a_saving_that_a_rule_never_makes_has_no_error_and_says_so():
    observed = made_up()
    parted, rules = all_of(observed)
    late = {"entropy": np.where(np.arange(4)[:, None] < 2, np.nan, rules["entropy"])}  # cannot stop before exit 3
    rows = early_exits.curves(observed, parted, late)
    (row,) = found(rows, metric="excess_error_at_saving", saved=0.5)
    assert (row["value"], row["reason"]) == (None, "the rule never saves as much")


def test_guarantees_keep_their_level_and_a_telling_signal_saves_where_fixed_depth_cannot():
    observed = made_up()
    parted, rules = all_of(observed)
    rows = early_exits.guaranteed(observed, parted, rules, (0.05, 0.4), 0.1, np.random.default_rng(2), splits=40)
    assert not found(rows, rule="oracle")

    def value(metric, rule, guarantee, alpha=0.05):
        return found(rows, metric=metric, rule=rule, guarantee=guarantee, alpha=alpha)[0]["value"]

    for guarantee in ("conformal risk control", "learn then test"):
        assert value("loops_saved", "fixed", guarantee) == 0
        assert value("loops_saved", "fixed", guarantee, 0.4) > 0.7
        assert value("loops_saved", "entropy", guarantee) > 0.4
        assert value("loops_saved_by_batch", "entropy", guarantee) <= value("loops_saved", "entropy", guarantee)
        assert value("risk", "entropy", guarantee) <= 0.05
    for rule in ("fixed", "entropy", "kl", "learned-gate"):
        assert value("violations", rule, "learn then test") <= 0.1


def test_what_is_saved_over_a_fixed_depth_is_under_the_same_guarantee_and_on_the_same_splits():
    observed = made_up()
    parted, rules = all_of(observed)
    rows = early_exits.guaranteed(observed, parted, rules, (0.05, 0.4), 0.1, np.random.default_rng(2), splits=10)
    assert not found(rows, rule="fixed", metric="loops_saved_over_fixed")
    for rule in ("entropy", "kl", "learned-gate"):
        for metric in ("loops_saved", "loops_saved_by_batch"):
            mine, over, fixed = (
                [row["value"] for row in found(rows, rule=name, metric=of)]
                for name, of in ((rule, metric), (rule, f"{metric}_over_fixed"), ("fixed", metric))
            )
            assert len(over) == 4  # two levels, two guarantees
            np.testing.assert_allclose(np.subtract(mine, fixed), over)


def test_bands_of_corruption_have_curves_of_their_own_that_average_to_the_whole():
    observed = made_up()
    parted, rules = all_of(observed)
    whole = early_exits.curves(observed, parted, {"entropy": rules["entropy"]}, points=6)
    rows = early_exits.by_level(observed, parted, {"entropy": rules["entropy"]}, levels=3, points=6)
    noise = [found(rows, stratum=f"level {band} of 3", setting=0)[0]["noise"] for band in range(3)]
    assert noise == sorted(noise)
    level = np.sort(observed.level[parted.test])
    assert noise[0] == pytest.approx(level[: len(level) // 3].mean(), abs=0.01)
    for point in found(whole, metric="excess_error"):
        parts = found(rows, metric="excess_error_at_level", setting=point["setting"])
        weights = [part["n_samples"] for part in parts]
        assert sum(weights) == point["n_samples"]
        for name in ("value", "loops_per_sample"):
            assert np.average([part[name] for part in parts], weights=weights) == pytest.approx(point[name])
        assert all(part["loops_per_sample"] <= part["loops_per_batch"] for part in parts)


def test_a_world_that_corrupts_all_alike_has_no_bands():
    observed = made_up()
    alike = PerSample(**{**vars(observed), "level": np.full(ITEMS, 0.9)})
    parted, rules = all_of(alike)
    assert early_exits.by_level(alike, parted, rules) == []


def test_too_few_items_for_a_level_are_refused_with_the_number_it_takes():
    observed = made_up(items=60)
    parted, rules = all_of(observed)
    with pytest.raises(ValueError, match=r"at least 45 calibration items, given 21"):
        early_exits.guaranteed(observed, parted, rules, (0.05,), 0.1, np.random.default_rng(2), splits=1)


def test_the_risk_of_values_is_in_units_of_their_mean_error_at_the_deepest_exit():
    observed = made_up()
    values = PerSample(**{**vars(observed), "errors": {"x0_error": observed.error + 2.0}})
    parted, _ = all_of(values)
    errors, name = early_exits.losses_of(values, parted)
    assert errors[-1] == pytest.approx(1)
    assert name == "x0_error_over_its_mean"
    assert early_exits.losses_of(observed, parted)[1] == "error_rate"
