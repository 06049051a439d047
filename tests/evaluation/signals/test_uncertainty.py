"""What signals declare, which of them a trace can give, and how what is not finite is reported."""

import numpy as np
import pytest
from scipy.stats import entropy

from eltbench import tasks
from eltbench.evaluation.signals.exit_trace import Trace
from eltbench.evaluation.signals.uncertainty import SIGNALS, get, measure, measure_members, nonfinite
from eltbench.tasks.base import ExitOutput

RNG = np.random.default_rng(0)


def trace_of(logits, states=None, initial=None):
    trace = Trace("tokens", hidden=np.ones(logits.shape[1:3], bool), initial=initial)
    for exit, values in enumerate(logits):
        trace.append(exit + 1, ExitOutput(values, None if states is None else states[exit]))
    return trace


def test_every_signal_states_its_formula_and_a_kind_of_data_that_some_task_has():
    kinds = {tasks.get(name).data_kind for name in tasks.names()}
    for name, signal in SIGNALS.items():
        assert signal.formula, name
        assert signal.kinds, name
        assert set(signal.kinds) <= kinds


def test_what_reads_later_exits_further_loops_or_other_networks_may_not_stop():
    barred = {name for name, signal in SIGNALS.items() if not signal.may_stop}
    assert barred == {name for name, signal in SIGNALS.items() if "deepest" in name or not signal.one_pass}
    assert all(signal.extra_loops + signal.extra_passes > 0 for signal in SIGNALS.values() if not signal.one_pass)
    assert not any(signal.extra_loops + signal.extra_passes for signal in SIGNALS.values() if signal.one_pass)


@pytest.mark.parametrize("name", [name for name, signal in SIGNALS.items() if signal.may_stop])
def test_a_signal_that_may_stop_does_not_change_when_later_exits_are_added(name):
    logits, states = RNG.standard_normal((5, 3, 4, 6)), RNG.standard_normal((5, 3, 4, 8))
    kind = SIGNALS[name].kinds[0]
    measured = []
    for exits in (3, 5):
        trace = Trace(kind, hidden=np.ones((3, 4), bool) if kind == "tokens" else None, level=np.arange(3.0))
        for exit in range(exits):
            prediction = logits[exit] if kind == "tokens" else logits[exit][..., None]
            trace.append(exit + 1, ExitOutput(prediction, states[exit], *np.moveaxis(states[exit, ..., :3], -1, 0)))
        measured.append(measure(trace, [name])[name])
    assert np.array_equal(measured[0], measured[1][:3], equal_nan=True)


def test_signals_before_their_first_exit_are_nan():
    measured = measure(trace_of(RNG.standard_normal((4, 2, 3, 5))))
    for name, values in measured.items():
        assert np.isnan(values[: SIGNALS[name].looks_back]).all()
        assert np.isfinite(values[SIGNALS[name].looks_back :]).all()


def test_a_trace_too_short_for_a_signal_gives_nan_and_not_an_error():
    measured = measure(trace_of(RNG.standard_normal((1, 2, 3, 5))), ["kl_to_previous", "entropy"])
    assert np.isnan(measured["kl_to_previous"]).all()
    assert np.isfinite(measured["entropy"]).all()


def test_unknown_signals_and_those_that_a_trace_lacks_are_refused():
    trace = trace_of(RNG.standard_normal((2, 2, 3, 5)))
    with pytest.raises(ValueError, match="unknown signal 'entrpy'; did you mean 'entropy'"):
        measure(trace, ["entrpy"])
    with pytest.raises(ValueError, match="'relative_update_norm' needs the state of tokens or continuous data"):
        measure(trace, ["relative_update_norm"])
    with pytest.raises(ValueError, match="needs the prediction of continuous data; this trace of tokens data"):
        measure(trace, ["squared_change_to_previous"])
    with pytest.raises(ValueError, match="'residual' needs the recurrence"):
        measure(trace, ["residual"])
    assert get("entropy") is SIGNALS["entropy"]


def test_what_is_not_finite_is_reported_with_its_item_and_exit():
    logits = RNG.standard_normal((4, 3, 2, 5))
    assert nonfinite(measure(trace_of(logits))) == []
    logits[2, 1, 0, 3] = np.nan
    found = nonfinite(measure(trace_of(logits), ["entropy", "kl_to_previous"]))
    assert [sentence.split(";")[0] for sentence in found] == [
        "signal 'entropy' is nan at item 1, exit 2 (by position)",
        "signal 'kl_to_previous' is nan at item 1, exit 2 (by position)",
    ]
    assert found[0].endswith("1 of 3 items are not finite somewhere")


def test_a_state_that_stands_still_has_no_direction_of_update_and_is_reported():
    states = np.ones((3, 2, 3, 4))
    found = nonfinite(measure(trace_of(np.zeros((3, 2, 3, 5)), states, initial=states[0]), ["update_turn"]))
    assert found[0].startswith("signal 'update_turn' is nan at item 0")


def test_path_dependence_is_not_defined_at_the_first_exit_and_so_not_reported():
    values = np.array([[np.nan, np.nan], [0.1, 0.2]])
    assert nonfinite({"path_dependence": values}) == []
    values[0, 0] = 0.1  # where it is defined for one item, it should be for the other
    assert len(nonfinite({"path_dependence": values})) == 1


def test_a_measured_signal_is_left_as_it_was_by_the_report():
    measured = measure(trace_of(RNG.standard_normal((3, 2, 3, 5))), ["kl_to_previous"])
    before = measured["kl_to_previous"].copy()
    nonfinite(measured)
    assert np.array_equal(before, measured["kl_to_previous"], equal_nan=True)


def test_members_that_agree_have_no_information_and_members_that_are_certain_and_differ_have_nothing_else():
    same = np.tile(RNG.standard_normal((1, 2, 3, 4)), (5, 1, 1, 1))
    hidden = np.ones((2, 3), bool)
    measured = measure_members("dropout", same, hidden)
    p = np.exp(same[0]) / np.exp(same[0]).sum(-1, keepdims=True)
    np.testing.assert_allclose(measured["dropout_entropy"], entropy(p, axis=-1).mean(-1))
    np.testing.assert_allclose(measured["dropout_information"], 0, atol=1e-12)
    opposed = np.zeros((4, 2, 3, 4))
    for member in range(4):
        opposed[member, ..., member] = 1e4  # four members, certain of four different values
    measured = measure_members("ensemble", opposed, hidden)
    np.testing.assert_allclose(measured["ensemble_entropy"], np.log(4))
    np.testing.assert_allclose(measured["ensemble_information"], np.log(4))


def test_signals_of_members_are_means_over_the_masked_tokens():
    members, hidden = RNG.standard_normal((3, 2, 4, 5)), np.array([[True, False, True, False], [False] * 3 + [True]])
    measured = measure_members("ensemble", members, hidden)
    for item in range(2):
        alone = measure_members(
            "ensemble", members[:, item : item + 1, hidden[item]], np.ones((1, hidden[item].sum()), bool)
        )
        for name, values in alone.items():
            np.testing.assert_allclose(measured[name][item], values[0])


def test_one_other_network_gives_its_own_entropy():
    logits, hidden = RNG.standard_normal((1, 2, 3, 4)), np.ones((2, 3), bool)
    measured = measure_members("unique-depth", logits, hidden)
    trace = Trace("tokens", hidden=hidden)
    trace.append(1, ExitOutput(logits[0]))
    np.testing.assert_allclose(measured["unique_depth_entropy"], measure(trace)["entropy"][0])
    assert measured.keys() == {"unique_depth_entropy"}


def test_members_of_a_continuous_prediction_have_a_variance():
    images = RNG.standard_normal((6, 3, 4, 4, 1))
    measured = measure_members("ensemble", images)
    assert measured.keys() == {"ensemble_variance"}
    np.testing.assert_allclose(measured["ensemble_variance"], images.var(0).reshape(3, -1).mean(1))


def test_impossible_members_are_refused():
    with pytest.raises(ValueError, match=r"unknown source of members 'dropuot'; did you mean 'dropout'\?"):
        measure_members("dropuot", np.zeros((2, 2, 3, 4)), np.ones((2, 3), bool))
    with pytest.raises(ValueError, match=r"hidden must be \(2, 3\) \(items, tokens\), given \(3, 2\)"):
        measure_members("dropout", np.zeros((2, 2, 3, 4)), np.ones((3, 2), bool))
