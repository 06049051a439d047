"""Every signal of one pass against scipy, a plain loop over tokens, or a closed form."""

import numpy as np
import pytest
from scipy.spatial.distance import cosine, jensenshannon
from scipy.special import rel_entr, softmax
from scipy.stats import entropy

from eltbench.evaluation import trajectory
from eltbench.evaluation.signals.exit_trace import Trace
from eltbench.evaluation.signals.uncertainty import SIGNALS, measure
from eltbench.tasks.base import ExitOutput

E, B, T, V, D = 5, 4, 6, 9, 8
RNG = np.random.default_rng(3)
SETTLING = np.array([1.0, 0.5, 0.2, 0.1, 0.05])  # the size of the steps, so that some choices come to rest
LOGITS = np.cumsum(2 * SETTLING[:, None, None, None] * RNG.standard_normal((E, B, T, V)), axis=0)
STATES = np.cumsum(RNG.standard_normal((E + 1, B, T, D)), axis=0)  # the first is the state before the first loop
PONDER = RNG.random((E, B, T)) + np.arange(1, E + 1)[:, None, None]
UNHALTED = np.sort(np.random.default_rng(4).random((E, B, T)), axis=0)[::-1]
HALTING = np.random.default_rng(5).standard_normal((E, B, T))
HIDDEN = RNG.random((B, T)) < 0.6
HIDDEN[0] = True
IMAGES = np.cumsum(RNG.standard_normal((E, B, 3, 2, 1)), axis=0)
LEVEL = RNG.random(B)
P = softmax(LOGITS, axis=-1)


def trace_of(kind="tokens", hidden=HIDDEN, initial=True, exits=E, make=np.asarray, **fields) -> Trace:
    trace = Trace(kind, hidden=hidden, level=LEVEL, initial=make(STATES[0]) if initial else None, **fields)
    predictions = LOGITS if kind == "tokens" else IMAGES
    for exit in range(exits):
        outputs = predictions[exit], STATES[exit + 1], PONDER[exit], UNHALTED[exit], HALTING[exit]
        trace.append(exit + 1, ExitOutput(*(make(output) for output in outputs)))
    return trace


def expected(of_token, first=0, reduce=np.mean):
    """(E, B) from a function of (exit, item, token), NaN before the first exit."""
    values = np.full((E, B), np.nan)
    for exit in range(first, E):
        for item in range(B):
            values[exit, item] = reduce([of_token(exit, item, token) for token in np.flatnonzero(HIDDEN[item])])
    return values


def update(exit, item, token):
    return STATES[exit + 1, item, token] - STATES[exit, item, token]


def floored(exit, item, token):
    """min-p in plain Python."""
    p = P[exit, item, token]
    q = [value if value >= 0.1 * max(p) else 1 / V for value in p]
    return np.array(q) / sum(q)


def changes(exit, item, token):
    best = LOGITS[: exit + 1, item, token].argmax(-1)
    return best[1:] != best[:-1]


def unchanged_since(exit, item, token):
    """How many of the last exits left the most likely value alone."""
    return next((age for age, changed in enumerate(changes(exit, item, token)[::-1]) if changed), exit)


def norm(vector):
    return np.sqrt((vector**2).sum())


TOKEN_ORACLES = {
    "max_softmax": (0, lambda e, b, t: 1 - P[e, b, t].max()),
    "entropy": (0, lambda e, b, t: entropy(P[e, b, t])),
    "ponder": (0, lambda e, b, t: PONDER[e, b, t]),
    "unhalted": (0, lambda e, b, t: UNHALTED[e, b, t]),
    "minus_halting": (0, lambda e, b, t: -HALTING[e, b, t]),
    "kl_to_previous": (1, lambda e, b, t: entropy(P[e - 1, b, t], P[e, b, t])),
    "kl_to_deepest": (0, lambda e, b, t: entropy(P[-1, b, t], P[e, b, t])),
    "jensen_shannon_to_previous": (1, lambda e, b, t: jensenshannon(P[e - 1, b, t], P[e, b, t]) ** 2),
    "jensen_shannon_to_deepest": (0, lambda e, b, t: jensenshannon(P[-1, b, t], P[e, b, t]) ** 2),
    "min_p_kl_to_previous": (1, lambda e, b, t: rel_entr(floored(e - 1, b, t), floored(e, b, t)).sum()),
    "entropy_change": (1, lambda e, b, t: abs(entropy(P[e, b, t]) - entropy(P[e - 1, b, t]))),
    "argmax_changed": (1, lambda e, b, t: changes(e, b, t)[-1]),
    "argmax_flips": (1, lambda e, b, t: changes(e, b, t).sum()),
    "variance_over_exits": (1, lambda e, b, t: P[: e + 1, b, t].var(axis=0).sum()),
    "relative_update_norm": (0, lambda e, b, t: norm(update(e, b, t)) / norm(STATES[e + 1, b, t])),
    "state_turn": (0, lambda e, b, t: cosine(STATES[e, b, t], STATES[e + 1, b, t])),
    "update_turn": (1, lambda e, b, t: cosine(update(e - 1, b, t), update(e, b, t))),
    "relative_acceleration": (
        1,
        lambda e, b, t: norm(update(e, b, t) - update(e - 1, b, t)) / norm(STATES[e + 1, b, t]),
    ),
}


@pytest.mark.parametrize("name", TOKEN_ORACLES)
def test_a_signal_is_the_mean_of_its_formula_over_the_masked_tokens(name):
    first, of_token = TOKEN_ORACLES[name]
    np.testing.assert_allclose(measure(trace_of(), [name])[name], expected(of_token, first), atol=1e-12)


def test_argmax_unsettled_counts_the_exits_since_any_masked_token_changed():
    values = expected(lambda e, b, t: -unchanged_since(e, b, t), first=1, reduce=max)
    assert np.array_equal(measure(trace_of(), ["argmax_unsettled"])["argmax_unsettled"], values, equal_nan=True)
    assert len(np.unique(values[1:])) > 2


def test_the_corruption_level_is_the_same_at_every_exit():
    assert np.array_equal(measure(trace_of(), ["corruption_level"])["corruption_level"], np.tile(LEVEL, (E, 1)))


def test_every_signal_of_one_pass_is_tested_here():
    continuous = {"variance_bound", "squared_change_to_previous", "squared_change_to_deepest"}
    tested = {*TOKEN_ORACLES, *continuous, "argmax_unsettled", "corruption_level"}
    assert tested == {name for name, signal in SIGNALS.items() if signal.one_pass}
    assert measure(trace_of()).keys() == tested - continuous


def two_points(mean):
    """The variance of the law on -1 and 1 with this mean: none on [-1, 1] has a larger one."""
    chance = (np.clip(mean, -1, 1) + 1) / 2
    return float(np.cov([-1.0, 1.0], aweights=[1 - chance, chance], ddof=0))


def test_signals_of_a_continuous_prediction_are_means_over_its_dimensions():
    measured = measure(trace_of("continuous", hidden=None))
    flat = IMAGES.reshape(E, B, -1)
    changes = ((flat[1:] - flat[:-1]) ** 2).mean(-1)
    np.testing.assert_allclose(measured["squared_change_to_previous"][1:], changes)
    np.testing.assert_allclose(measured["squared_change_to_deepest"], ((flat - flat[-1]) ** 2).mean(-1))
    variances = [flat[: exit + 1].var(axis=0).mean(-1) for exit in range(1, E)]
    np.testing.assert_allclose(measured["variance_over_exits"][1:], variances)
    largest = [[two_points(value) for value in item] for item in flat.reshape(E * B, -1)]
    np.testing.assert_allclose(measured["variance_bound"], np.mean(largest, axis=1).reshape(E, B), atol=1e-12)
    norms = np.linalg.norm(STATES[1:] - STATES[:-1], axis=-1) / np.linalg.norm(STATES[1:], axis=-1)  # (E, B, T)
    np.testing.assert_allclose(measured["relative_update_norm"], norms.mean(-1))
    assert "entropy" not in measured


def test_signals_of_states_are_the_metrics_of_the_trajectory_where_an_item_has_one_token():
    trace = Trace("continuous", initial=STATES[0, :, :1])
    for exit in range(E):
        trace.append(exit + 1, ExitOutput(IMAGES[exit], STATES[exit + 1, :, :1]))
    measured, states = measure(trace), STATES[:, :, :1]
    for loops in range(2, E + 1):
        pairs = {
            "relative_update_norm": trajectory.relative_update_norm(states, loops),
            "state_turn": trajectory.direction_update_norm(states, loops) ** 2 / 2,
            "update_turn": 1 - trajectory.update_cosine(states, loops),
            "relative_acceleration": trajectory.relative_acceleration(states, loops),
        }
        for name, values in pairs.items():
            np.testing.assert_allclose(measured[name][loops - 1], values, err_msg=name)


def test_without_the_state_before_the_first_loop_signals_of_states_begin_one_exit_later():
    known, unknown = measure(trace_of()), measure(trace_of(initial=False))
    for name in ("relative_update_norm", "state_turn", "update_turn", "relative_acceleration"):
        first = SIGNALS[name].looks_back
        assert np.isnan(unknown[name][:first]).all()
        np.testing.assert_allclose(unknown[name][first:], known[name][first:])
        assert np.isfinite(known[name][first - 1]).all()


@pytest.mark.parametrize("kind", ["tokens", "continuous"])
def test_torch_measures_in_float32_what_numpy_measures_in_float64(kind):
    import torch

    hidden = HIDDEN if kind == "tokens" else None
    reference = measure(trace_of(kind, hidden))
    measured = measure(trace_of(kind, hidden, make=lambda array: torch.from_numpy(array.astype(np.float32))))
    assert measured.keys() == reference.keys()
    for name, values in measured.items():
        assert values.dtype == np.float64
        np.testing.assert_allclose(values, reference[name], rtol=2e-4, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_probabilities_too_small_for_a_float_give_no_nan(dtype):
    """Two certain and opposite predictions: JS is ln 2 and KL the gap of the logits."""
    certain = np.zeros((1, 2, 3), dtype)
    certain[..., 0] = 2000
    trace = Trace("tokens", hidden=np.ones((1, 2), bool))
    trace.append(1, ExitOutput(certain))
    trace.append(2, ExitOutput(certain[..., ::-1]))
    measured = measure(trace)
    assert measured["jensen_shannon_to_previous"][1] == pytest.approx(np.log(2))
    assert measured["kl_to_previous"][1] == pytest.approx(2000)
    assert measured["entropy"] == pytest.approx(np.zeros((2, 1)), abs=1e-30)
    assert measured["min_p_kl_to_previous"][1] > 0


def test_state_turn_keeps_its_digits_near_convergence():
    """1 - cos computed from the cosine has no digit left here in float32."""
    state = RNG.standard_normal((1, 1, 64)).astype(np.float32)
    turned = state + np.float32(1e-4) * np.roll(state, 1, axis=-1)
    trace = Trace("tokens", hidden=np.ones((1, 1), bool), initial=state)
    trace.append(1, ExitOutput(np.zeros((1, 1, 2), np.float32), turned))
    exact = cosine(state.ravel().astype(np.float64), turned.ravel().astype(np.float64))
    assert exact < 1e-8
    assert measure(trace)["state_turn"][0, 0] == pytest.approx(exact, rel=1e-2)
