"""What the study fits, what it calibrates and what it tests share no item, as its own measurement uses them.

Every value of an item tells which one it is, so that whoever is given values can be asked whose they were.
"""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest

from eltbench import studies
from eltbench.evaluation.signals import calibration, probe, risk_coverage, selective, signal_scores
from eltbench.evaluation.signals.per_sample import PerSample
from eltbench.evaluation.stopping import guarantees, sampling_stops
from eltbench.evaluation.stopping import rules as stopping
from eltbench.evaluation.stopping.generation import Generated
from eltbench.studies.disagreement import study as disagreement
from eltbench.studies.presets import Arm, Preset, World
from eltbench.training.loop import parts

STUDY = studies.create("disagreement")
ITEMS, DRAWS, APART = 360, 2, 1000


def whose(values) -> set[int]:
    """The items that values belong to."""
    return set(np.unique(np.asarray(values, float) % APART).astype(int) - 1)


def telling(model, exits, draws, **_) -> PerSample:
    """A per-sample table whose signals are the item's number, and whose errors are too, in units of `APART`."""
    item, draw = np.tile(np.arange(ITEMS), DRAWS), np.repeat(np.arange(DRAWS), ITEMS)
    own = np.tile(item + 1.0, (len(exits), 1))
    later = np.arange(len(exits))[::-1, None] * (item % 2)
    names = ("entropy", "max_softmax", "kl_to_previous", "relative_update_norm", "ensemble_entropy")
    signals = {name: own.copy() for name in names}
    signals["kl_to_previous"][0] = np.nan
    errors = dict.fromkeys(("negative_log_likelihood", "error_rate"), own + APART * later)
    return PerSample(tuple(exits), item, draw, np.full(len(item), -1), item / ITEMS, errors, signals)


@pytest.fixture
def seen(monkeypatch):
    """The items whose values were given to what fits, what chooses and calibrates, and what is reported."""
    found: dict[str, set[int]] = defaultdict(set)

    def spy(module, name, note):
        original = getattr(module, name)

        def noting(*given, **named):
            note(*given)
            return original(*given, **named)

        monkeypatch.setattr(module, name, noting)

    class Learned:
        def __init__(self, measured, *_, **__):
            self.names = list(measured)
            found["fit"] |= whose(measured["entropy"])

        def __call__(self, measured, loops=None):
            return measured["entropy"] if loops is not None else measured["entropy"][0]

    def calibrated(signal, _, fit_signal, __):
        found["test"] |= whose(signal)
        found["calibrate"] |= whose(fit_signal)

    def scored(signal, error, *_):
        chosen = error.max() <= 1  # of events: a family's best signal is chosen, on one set, and compared, on another
        found["chosen"] |= whose(signal) if chosen else set()
        found["test"] |= set() if chosen else whose(signal)

    monkeypatch.setattr(signal_scores, "Probe", Learned)
    monkeypatch.setattr(probe, "Gate", Learned)
    spy(selective, "upper_quartiles", lambda error, _: found["fit"].update(whose(error)))
    spy(stopping, "thresholds", lambda values, *_: found["fit"].update(whose(values[-1]) if values[-1, 0] > 0 else ()))
    spy(stopping, "curve", lambda _, errors, *__: found["test"].update(whose(errors[-1])))
    spy(risk_coverage, "at_coverages", lambda signal, *_: found["test"].update(whose(signal)))
    spy(selective, "scores", scored)
    spy(calibration, "calibration", calibrated)
    return found


def test_what_is_fitted_chosen_and_reported_are_three_disjoint_sets_of_items(seen, monkeypatch):
    pairs = []
    split = guarantees.split

    def noted(items, *given):
        parted = split(items, *given)
        pairs.append([set(items[units]) for units in parted])
        return parted

    monkeypatch.setattr(disagreement, "observe", telling)
    monkeypatch.setattr(guarantees, "split", noted)
    world, arm = World("masked", "digits-codes"), Arm("elt")
    preset = Preset("made-up", worlds=(world,), arms=(arm,), measurement={"ensemble": 0, "strata": 3, "splits": 7})
    run = preset.run(world, arm, 0)
    model = SimpleNamespace(run=run, spec=parts(run).dataset.spec)
    STUDY.measure(model, run, STUDY.settings(preset, world, arm))
    fit, calibrate, test = (seen[name] for name in ("fit", "calibrate", "test"))
    assert len(fit) + len(calibrate) + len(test) == len(fit | calibrate | test) == ITEMS
    assert seen["chosen"] == calibrate | test
    assert len(pairs) == 7
    for nothing, to_calibrate, to_test in pairs:
        assert not nothing
        assert not to_calibrate & to_test
        assert to_calibrate | to_test == calibrate | test  # none of those that thresholds and gate were fitted on
    assert len({frozenset(to_test) for _, _, to_test in pairs}) == 7


def test_samples_that_set_thresholds_calibrate_nothing_and_those_that_calibrate_are_not_tested(monkeypatch):
    number, steps = np.arange(1, 121), 2
    fitted: list[set[int]] = []
    calibrated: list[set[int]] = []
    tested: list[set[int]] = []

    def drawn(away: float, **_) -> Generated:
        path = np.tile(away * number, (steps, 1))[..., None]
        signals = {name: np.tile(number.astype(float), (steps, 3, 1)) for name in ("entropy", "kl_to_deepest")}
        return Generated(path, signals, np.tile(number, (steps, 1)), np.zeros(steps))

    learn, limits, whole = guarantees.learn_then_test, np.quantile, stopping.batched

    def learning(losses, *given):
        if (losses[-1] > 0).all():
            calibrated.append(whose(np.round(losses[-1] * APART)))
        return learn(losses, *given)

    def limiting(values, *given, **named):
        fitted.extend([whose(values)] if values[0] > 0 else [])
        return limits(values, *given, **named)

    def running(loops):
        tested.extend([whose(loops)] if loops.shape[1] < len(number) else [])
        return whole(loops)

    monkeypatch.setattr(guarantees, "learn_then_test", learning)
    monkeypatch.setattr(np, "quantile", limiting)
    monkeypatch.setattr(stopping, "batched", running)
    monkeypatch.setattr(sampling_stops, "generate", lambda *_, **__: drawn(1 / APART))
    monkeypatch.setattr(sampling_stops, "sample_errors", lambda *_: {})
    sampling_stops.score(None, drawn(0.0), {}, number, (1, 2, 3), {}, (0.2,), 0.1, 5, np.random.default_rng(0))
    assert fitted == [set(range(60))]  # the entropy's; a fixed depth learns nothing from samples
    assert len(calibrated) == len(tested) == 10  # two rules, five splits
    for to_calibrate, to_test in zip(calibrated, tested, strict=True):
        assert not to_calibrate & to_test
        assert to_calibrate | to_test == set(range(60, 120))
