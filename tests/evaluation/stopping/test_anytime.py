"""Any-time predictions: what comes after every loop, what stops it, and what that saves."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from eltbench import trainers
from eltbench.core.config import Architecture, Optimisation, Run
from eltbench.evaluation.signals import uncertainty
from eltbench.evaluation.signals.exit_trace import trace
from eltbench.evaluation.signals.probe import Gate
from eltbench.evaluation.signals.uncertainty import SIGNALS
from eltbench.evaluation.stopping import rules as stopping
from eltbench.evaluation.stopping.anytime import anytime
from eltbench.evaluation.stopping.rules import Rule
from eltbench.tasks.base import ExitOutput
from eltbench.training.loop import build_engine, fit, parts
from eltbench.training.model import Model

TRAINERS = ("elt", "no-ilsd", "unique-depth", "universal-transformer", "deep-supervision", "random-loops", "deq")
ITEMS, EXITS = 12, (1, 2, 3, 4)
EIGHT_TOKENS = (("length", 4), ("strips", 2))


def model_of(trainer="elt", block="dit", precision="fp32", **architecture) -> Model:
    """An untrained model with every weight away from its (partly zero) start: diffusion with dit, masked with bert."""
    diffusion = block == "dit"
    unique = trainer == "unique-depth"
    shape = {"unique_layers": 1, "max_loops": 1 if unique else 4, "width": 16, "heads": 2, "block": block}
    run = Run(
        trainer,
        "diffusion" if diffusion else "masked",
        "digits" if diffusion else "relay",
        architecture=Architecture(**{**trainers.get(trainer).architecture_defaults, **shape, **architecture}),
        dataset_options=() if diffusion else EIGHT_TOKENS,
        precision=precision,
    )
    made = parts(run)
    model = Model(run, build_engine(run, made), made)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.engine.average.module.named_parameters():
            parameter += 0.15 * torch.randn(parameter.shape, generator=generator)
            if name == "halting.linear.bias":
                parameter.fill_(-1.0)  # tokens halt at different loops, some at none
    return model


def inputs_of(model: Model) -> dict:
    """What `predict` is given, by name."""
    clean = model.dataset.batch(np.random.default_rng(0), ITEMS)
    (batch,) = model.task.heldout(clean, model.spec, np.random.default_rng(0), 1)
    return {"inputs": batch.inputs, "labels": batch.labels, "log_snr": batch.log_snr, "context": batch.context}


def measured(model: Model, exits=EXITS) -> dict[str, np.ndarray]:
    """All signals of one pass over the same items, {name: (E, B)}, none of which leaves."""
    clean = model.dataset.batch(np.random.default_rng(0), ITEMS)
    (batch,) = model.task.heldout(clean, model.spec, np.random.default_rng(0), 1)
    return uncertainty.measure(trace(model, batch, exits))


def between(values: np.ndarray) -> float:
    """A threshold that about half of the items meet at the first exit that has values, far from every value."""
    seen = values[:-1][np.isfinite(values[:-1]).all(axis=1)]
    low, high = np.quantile(seen[0], [0.2, 0.8])
    inside = np.unique(seen[(low <= seen) & (seen <= high)])
    gap = int(np.diff(inside).argmax())
    return float(inside[gap : gap + 2].mean())


class Watch:
    """A clock that stands still but for loops, and what runs in them."""

    def __init__(self, model: Model, monkeypatch, loop_ms=10.0) -> None:
        self.seconds, self.items = 0.0, []
        begin, watch = model.engine.steps, self

        def steps(batch):
            begun = begin(batch)
            advance = begun.advance

            def timed(fields):
                output: ExitOutput = advance(fields)
                watch.seconds += loop_ms / 1000
                watch.items.append(len(begun._carry.state))
                return output

            begun.advance = timed
            return begun

        monkeypatch.setattr(model.engine, "steps", steps)

    def __call__(self) -> float:
        return self.seconds


def same(given: np.ndarray, expected: np.ndarray) -> bool:
    return np.allclose(given, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


# What is given


@pytest.mark.parametrize("block", ["dit", "bert"])
@pytest.mark.parametrize("trainer", TRAINERS)
def test_every_prediction_is_that_of_predict_at_its_exit(trainer, block):
    model = model_of(trainer, block)
    exits = (1,) if trainer == "unique-depth" else EXITS
    expected = model.predict(**inputs_of(model), exits=exits)
    given = list(anytime(model, **inputs_of(model)))
    assert [current.loops for current in given] == list(exits)
    for current, prediction in zip(given, expected, strict=True):
        assert same(current.prediction, prediction)
        assert (current.exits == current.loops).all()
        assert current.running.all() == (current.loops < exits[-1]) == (current.ended_by is None)
    assert given[-1].ended_by == "loops"
    for earlier, later in pairwise(given):
        assert not np.shares_memory(earlier.prediction, later.prediction)


@pytest.mark.parametrize(("trainer", "block"), [("elt", "bert"), ("deq", "dit"), ("universal-transformer", "bert")])
def test_items_that_stop_leave_the_batch_and_no_other_notices(trainer, block, monkeypatch):
    model = model_of(trainer, block)
    values = measured(model)["relative_update_norm"]
    threshold = between(values)
    stop = stopping.stops(values, threshold)
    assert len(set(stop)) > 1
    expected = np.stack(model.predict(**inputs_of(model), exits=EXITS))
    watch = Watch(model, monkeypatch)
    given = list(anytime(model, **inputs_of(model), rule="latent-difference", threshold=threshold))
    for place, current in enumerate(given):
        read = np.minimum(stop, place)
        assert same(current.prediction, expected[read, np.arange(ITEMS)])
        assert np.array_equal(current.exits, np.array(EXITS)[read])
        assert np.array_equal(current.running, (stop > place))
    assert watch.items == [int((stop >= place).sum()) for place in range(len(given))]
    assert given[-1].ended_by == ("rule" if stop.max() < len(EXITS) - 1 else "loops")


def test_half_precision_is_that_of_predict():
    model = model_of(precision="bf16")
    expected = model.predict(**inputs_of(model), exits=EXITS)
    for current, prediction in zip(anytime(model, **inputs_of(model)), expected, strict=True):
        assert current.prediction.dtype == np.float32
        assert same(current.prediction, prediction)


def test_exits_may_be_chosen_and_begin_where_training_began_to_read():
    model = model_of(min_loops=3)
    assert [current.loops for current in anytime(model, **inputs_of(model))] == [3, 4]
    given = list(anytime(model, **inputs_of(model), exits=(2, 6)))
    for current, prediction in zip(given, model.predict(**inputs_of(model), exits=(2, 6)), strict=True):
        assert same(current.prediction, prediction)


@pytest.mark.parametrize(("trainer", "block"), [("universal-transformer", "bert"), ("elt", "dit")])
def test_signals_are_those_of_one_pass(trainer, block):
    model = model_of(trainer, block)
    expected = measured(model)
    given = list(anytime(model, **inputs_of(model)))
    assert given[0].signals.keys() == {name for name in expected if uncertainty.get(name).may_stop}
    for place, current in enumerate(given):
        assert current.nonfinite == ()
        for name, values in current.signals.items():
            assert np.allclose(values, expected[name][place], rtol=1e-3, atol=1e-5, equal_nan=True), name
    assert list(anytime(model, **inputs_of(model), signals=()))[-1].signals == {}
    (name,) = list(anytime(model, **inputs_of(model), signals=["update_turn"]))[-1].signals
    assert name == "update_turn"


def test_what_is_not_finite_is_reported_with_its_item_and_never_stops():
    model = model_of()
    inputs = inputs_of(model)
    threshold = between(measured(model)["relative_update_norm"])
    inputs["inputs"] = inputs["inputs"].copy()
    inputs["inputs"][[7, 9]] = 3e38  # finite, but not what is computed from it
    given = list(anytime(model, **inputs, rule="latent-difference", threshold=threshold))
    assert not given[-2].running.all()  # others have stopped: items are counted as they were given
    assert given[-1].exits[7] == 4
    for current in given:
        assert f"is nan at item 7 after {current.loops} loops, and at 1 more items" in current.nonfinite[-1]


# What stops it

RULES = [
    (block, name)
    for block, kind in (("bert", "tokens"), ("dit", "continuous"))
    for name, rule in stopping.RULES.items()
    if rule.signal == "minus_loops" or (rule.signal in SIGNALS and kind in SIGNALS[rule.signal].kinds)
]


@pytest.mark.parametrize(("block", "name"), RULES)
def test_each_rule_stops_where_it_does_on_a_whole_pass(block, name):
    trainer = {"halting": "universal-transformer", "judged-right": "trm"}.get(name, "elt")
    model, rule = model_of(trainer, block), stopping.RULES[name]
    values = stopping.minus_loops(EXITS, ITEMS) if name == "fixed" else measured(model)[rule.signal]
    whole = {"fixed": -2.0, "argmax-stability": -0.5}  # signals that count
    threshold = whole[name] if name in whole else between(values)
    *_, last = anytime(model, **inputs_of(model), rule=name, threshold=threshold, signals=())
    assert np.array_equal(last.exits, np.array(EXITS)[stopping.stops(values, threshold, rule.hits)])
    assert last.exits.min() < 4


def test_a_learned_gate_stops_where_it_does_on_a_whole_pass():
    model = model_of(block="bert")
    values = {name: rows for name, rows in measured(model).items() if name in ("entropy", "relative_update_norm")}
    errors = np.sort(np.random.default_rng(0).random((4, ITEMS)), axis=0)[::-1]
    gate = Gate(values, errors, EXITS, tolerance=0.3)
    not_ready = gate(values, EXITS)
    threshold = between(not_ready)
    *_, last = anytime(model, **inputs_of(model), rule="learned-gate", gate=gate, threshold=threshold, signals=())
    assert np.array_equal(last.exits, np.array(EXITS)[stopping.stops(not_ready, threshold)])
    assert last.signals.keys() == values.keys()


def test_a_rule_brings_the_threshold_of_its_source_and_the_safest_never_stops():
    model = model_of()
    easy = Rule("relative_update_norm", threshold=np.inf)
    assert [current.ended_by for current in anytime(model, **inputs_of(model), rule=easy)] == ["rule"]
    *_, last = anytime(model, **inputs_of(model), rule=easy, threshold=-np.inf)
    assert (last.exits == 4).all()
    assert last.ended_by == "loops"


@pytest.mark.parametrize(("deadline", "loops"), [(1, 1), (19.9, 1), (20.1, 2), (35, 3), (1000, 4)])
def test_no_loop_begins_that_would_end_after_the_deadline(deadline, loops, monkeypatch):
    model = model_of()
    given = list(anytime(model, **inputs_of(model), deadline_ms=deadline, clock=Watch(model, monkeypatch)))
    assert len(given) == loops  # the first runs in any case: there must be a prediction
    assert [current.elapsed_ms for current in given] == pytest.approx([10.0 * (1 + place) for place in range(loops)])
    assert given[-1].ended_by == ("loops" if loops == 4 else "deadline")
    assert not given[-1].running.any()
    expected = model.predict(**inputs_of(model), exits=(loops,))[0]
    assert same(given[-1].prediction, expected)


def test_loops_without_an_exit_count_before_they_run(monkeypatch):
    model = model_of()
    clock = Watch(model, monkeypatch)
    (only,) = anytime(model, **inputs_of(model), exits=(2, 5), deadline_ms=45, clock=clock)  # three more would be 50
    assert only.ended_by == "deadline"


def test_the_callers_own_time_counts(monkeypatch):
    model = model_of()
    clock = Watch(model, monkeypatch)
    given = []
    for current in anytime(model, **inputs_of(model), deadline_ms=35, clock=clock):
        given.append(current)
        clock.seconds += 0.02
    assert [current.loops for current in given] == [1]


# Bad input


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"rule": "entropi"}, "unknown stopping rule 'entropi'; did you mean 'entropy'"),
        ({"rule": "acceleration"}, "needs a threshold, given None; take one from `rules.thresholds`"),
        ({"rule": "cosine", "threshold": float("nan")}, "needs a threshold, given nan"),
        ({"rule": "oracle"}, "the oracle knows the errors"),
        ({"rule": "learned-gate", "threshold": 0.1}, "a gate belongs to the rule 'learned-gate'"),
        (
            {"rule": "entropy", "threshold": 0.1},
            "signal 'entropy' cannot be read from the exits so far of trainer 'elt'",
        ),
        ({"rule": "cosine", "exits": (3,)}, r"a rule takes two exits or more, given \[3\]"),
        ({"threshold": 0.1}, "a threshold and a gate belong to a rule"),
        ({"signals": ["ponder"]}, "signal 'ponder' cannot be read"),
        ({"signals": ["squared_change_to_deepest"]}, "signal 'squared_change_to_deepest' cannot be read"),
        ({"signals": ["residal"]}, "unknown signal 'residal'; did you mean 'residual'"),
        ({"exits": (2, 1)}, "strictly increasing"),
        ({"deadline_ms": 0}, "deadline_ms must be above 0, given 0"),
        ({"deadline_ms": float("nan")}, "deadline_ms must be above 0, given nan"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_loop(asked, message, monkeypatch):
    model = model_of()
    monkeypatch.setattr(model.engine, "steps", None)
    with pytest.raises(ValueError, match=message):
        anytime(model, **inputs_of(model), **asked)


def test_a_rule_for_a_network_without_exits_is_refused():
    model = model_of("unique-depth")
    with pytest.raises(ValueError, match="trainer 'unique-depth' has no exits to stop at; give no rule"):
        anytime(model, **inputs_of(model), rule="cosine")


def test_inputs_without_a_question_are_refused():
    model = model_of(block="bert")
    given = inputs_of(model)
    given["inputs"] = given["inputs"].copy()
    given["inputs"][5] = 0
    with pytest.raises(ValueError, match="item 5 masks none"):
        anytime(model, **given)
    assert len(list(anytime(model, **given, signals=()))) == 4
    with pytest.raises(ValueError, match="give one item or more, given none"):
        anytime(model, **{name: None if array is None else array[:0] for name, array in given.items()})


# The page


def test_the_examples_of_the_page_run(tmp_path, capsys):
    run = Run(
        "elt",
        "masked",
        "digits-codes",
        architecture=Architecture(unique_layers=1, width=16, heads=2, block="bert"),
        optimisation=Optimisation(steps=1),
    )
    fit(run, tmp_path)
    page = (Path(__file__).parents[3] / "docs" / "anytime.md").read_text(encoding="utf-8")
    examples = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        exec(example.replace("deadline_ms=50, ", "").replace('"RUN"', repr(str(tmp_path))), {})
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith("1 ")
    assert "loops of 4; the mean excess loss, cut at 1, exceeds 0.1" in last
