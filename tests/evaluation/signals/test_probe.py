"""Learned signals find what there is to find, use nothing that they may not, and refuse what cannot be learned."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from eltbench.evaluation.signals.probe import Gate, Probe, trajectory_features
from eltbench.evaluation.signals.selective import auroc
from eltbench.evaluation.stopping.rules import stops
from eltbench.evidence.intervals import NonFiniteError

LOOPS = (1, 2, 3, 4)


def world(seed, items=600):
    """Signals and errors (E, B): each item is ready from an exit of its own on, which the changes show and no level.

    The event is an item that is never ready before the last exit.
    """
    rng = np.random.default_rng(seed)
    ready = rng.integers(4, size=items)
    late = np.arange(4)[:, None] < ready  # (E, B)
    kl = np.where(late, 1.0, 0.1) + 0.3 * rng.standard_normal((4, items))
    kl[0] = np.nan
    measured = {"kl_to_previous": kl, "entropy": rng.standard_normal((4, items)), "kl_to_deepest": late + 0.0}
    return measured, late.astype(float), ready == 3


@pytest.mark.parametrize("kind", ["logistic", "boosted"])
def test_a_probe_finds_the_event_on_other_items(kind):
    (measured, _, event), (other, _, other_event) = world(0), world(1)
    signals = {name: values for name, values in measured.items() if name != "kl_to_deepest"}
    probe = Probe(signals, event, kind)
    found = probe(other)
    assert found.shape == (600,)
    assert ((found >= 0) & (found <= 1)).all()
    assert auroc(found, other_event) > 0.9 > auroc(other["entropy"][-1], other_event)


def test_a_probe_is_the_logistic_regression_of_standardised_signals_at_all_exits():
    (measured, _, event), (other, _, _) = world(0), world(1)
    del measured["kl_to_deepest"]
    features, others = trajectory_features(measured, list(measured)), trajectory_features(other, list(measured))
    assert features.shape == (600, 3 + 4)  # no column for the exit at which a change is not defined
    scaled, others_scaled = ((values - features.mean(0)) / features.std(0) for values in (features, others))
    expected = LogisticRegression(max_iter=1000).fit(scaled, event).predict_proba(others_scaled)[:, 1]
    np.testing.assert_allclose(Probe(measured, event)(other), expected, rtol=1e-6)


@pytest.mark.parametrize("kind", ["logistic", "boosted"])
def test_a_learned_signal_is_the_same_at_every_fit(kind):
    measured, errors, event = world(0)
    assert np.array_equal(Probe(measured, event, kind)(measured), Probe(measured, event, kind)(measured))
    first, second = (Gate(measured, errors, LOOPS, kind=kind)(measured, LOOPS) for _ in range(2))
    assert np.array_equal(first, second)


def test_a_gate_saves_loops_on_other_items_at_little_loss():
    (measured, errors, _), (other, other_errors, _) = world(0), world(1)
    not_ready = Gate(measured, errors, LOOPS, kind="boosted")(other, LOOPS)
    assert not_ready.shape == (4, 600)
    stop = stops(not_ready, 0.3)
    assert stop.mean() < 2.6
    assert other_errors[stop, np.arange(600)].mean() < 0.15 < other_errors[0].mean()


def test_a_gate_reads_no_later_exit():
    measured, errors, _ = world(0)
    gate = Gate(measured, errors, LOOPS)
    assert "kl_to_deepest" not in gate.names
    whole = gate(measured, LOOPS)
    for exits in (1, 2, 3):
        part = gate({name: values[:exits] for name, values in measured.items()}, LOOPS[:exits])
        np.testing.assert_allclose(part, whole[:exits])


def test_the_tolerance_says_how_much_worse_than_the_deepest_is_ready():
    measured, errors, _ = world(0)
    strict, loose = (Gate(measured, 0.5 * errors, LOOPS, tolerance=tolerance) for tolerance in (0.0, 0.4))
    np.testing.assert_allclose(strict(measured, LOOPS), loose(measured, LOOPS))
    with pytest.raises(ValueError, match="0 of 1800 cases are events"):
        Gate(measured, 0.5 * errors, LOOPS, tolerance=0.6)


def test_what_cannot_be_learned_is_refused():
    measured, _, event = world(0)
    with pytest.raises(ValueError, match="600 of 600 cases are events; there is nothing to tell apart"):
        Probe(measured, np.ones(600, bool))
    with pytest.raises(ValueError, match="kind must be 'logistic' or 'boosted', given 'deep'"):
        Probe(measured, event, "deep")
    measured["entropy"][2, 5] = np.inf
    with pytest.raises(NonFiniteError, match="signal 'entropy' is inf at item 5, exit 2"):
        Probe(measured, event)
