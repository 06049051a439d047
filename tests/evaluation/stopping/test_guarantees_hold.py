"""Both guarantees hold by simulation, each for what it bounds, and are not mistaken for one another."""

import numpy as np
import pytest

from eltbench.evaluation.stopping.guarantees import conformal_risk_control, learn_then_test, running_worst

SETS = 2000  # calibration sets; the tolerances are three standard errors of a share


def tolerance(share):
    return 3 * np.sqrt(share * (1 - share) / SETS)


def failing_from(rng, items, settings):
    """0/1 losses (K, n): item i fails from a setting of its own on, so that setting k has risk k/(K - 1)·0.4."""
    risk = np.linspace(0, 0.4, settings)
    return (rng.random(items) < risk[:, None]).astype(float), risk


def graded(rng, items, settings):
    """Losses in [0, 1] that grow with the setting: boldness² times a number of each item; the risk is boldness²/3."""
    boldness = np.linspace(0, 1, settings)
    return (boldness[:, None] ** 2) * rng.random(items) ** 2, boldness**2 / 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("losses_of", "alpha", "items"), [(failing_from, 0.1, 60), (graded, 0.1, 30), (failing_from, 0.2, 9)]
)
def test_the_mean_risk_of_conformal_risk_control_is_at_most_alpha_and_not_far_below(losses_of, alpha, items):
    rng = np.random.default_rng(0)
    chosen = np.empty(SETS)
    for number in range(SETS):
        losses, risk = losses_of(rng, items, 400)
        chosen[number] = risk[conformal_risk_control(losses, alpha).index]
    error = 3 * chosen.std() / np.sqrt(SETS)
    assert chosen.mean() <= alpha + error
    assert chosen.mean() >= alpha - 2 / (items + 1) - error  # arXiv 2208.02814, theorem 2


@pytest.mark.slow
def test_conformal_risk_control_bounds_the_mean_and_not_the_share_of_sets():
    rng = np.random.default_rng(1)
    above = []
    for _ in range(SETS):
        losses, risk = failing_from(rng, 100, 400)
        above.append(risk[conformal_risk_control(losses, 0.1).index] > 0.1)
    assert np.mean(above) > 0.2


@pytest.mark.slow
def test_learn_then_test_lets_at_most_delta_of_the_sets_exceed_alpha():
    rng, delta = np.random.default_rng(2), 0.1
    above, used = [], []
    for _ in range(SETS):
        losses, risk = failing_from(rng, 150, 60)
        index = learn_then_test(losses, 0.1, delta).index
        above.append(risk[index] > 0.1)
        used.append(risk[index])
    assert np.mean(above) <= delta + tolerance(delta)
    assert np.mean(used) > 0.05  # and it dares something


@pytest.mark.slow
@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("delta", [0.1, 0.3])
def test_learn_then_test_holds_for_losses_that_rise_and_fall(binary, delta):
    """Risks just above α between safe ones, as where running on makes things worse again."""
    rng, alpha = np.random.default_rng(3), 0.2
    risk = np.array([0.0, 0.02, 0.08, 0.21, 0.05, 0.22, 0.1, 0.205, 0.5, 0.01])
    above = any_above = 0
    for _ in range(SETS):
        draws = rng.random((len(risk), 120))
        losses = draws < risk[:, None] if binary else np.clip(risk[:, None] * (0.5 + draws), 0, 1)
        if binary:
            losses = losses.astype(float)
        index = learn_then_test(losses, alpha, delta).index
        above += risk[index] > alpha
        any_above += (risk[: index + 1] > alpha).any()
    assert above <= any_above
    assert any_above / SETS <= delta + tolerance(delta)


def test_the_p_value_at_the_edge_is_used_up_to_a_good_part():
    """A procedure that accepts nothing would pass the tests above: at risk α it errs, if not more than δ."""
    rng, delta = np.random.default_rng(4), 0.3
    wrong = np.mean(
        [learn_then_test(np.stack([np.zeros(150), rng.random(150) < 0.2]), 0.2, delta).index for _ in range(SETS)]
    )
    assert 0.05 < wrong <= delta + tolerance(delta)


def test_the_running_worst_makes_conformal_risk_control_valid_for_losses_that_fall():
    rng, alpha = np.random.default_rng(5), 0.1
    risk = np.array([0.0, 0.12, 0.02, 0.15, 0.01])
    chosen = np.empty(SETS)
    for number in range(SETS):
        losses = (rng.random((5, 60)) < risk[:, None]).astype(float)
        chosen[number] = risk[conformal_risk_control(running_worst(losses), alpha).index]
    assert chosen.mean() <= alpha
