"""A trace reads a pass as it was, whole or in part, and keeps no more than it must."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from eltbench.core.config import Architecture, Run
from eltbench.evaluation.signals.exit_trace import Trace, trace
from eltbench.evaluation.signals.uncertainty import measure
from eltbench.tasks.base import ExitOutput
from eltbench.training.loop import build_engine, parts
from eltbench.training.model import Model

RUNS = {
    "masked": Run("elt", "masked", "digits-codes", architecture=Architecture(width=16, heads=2, block="bert")),
    "diffusion": Run("elt", "diffusion", "digits", architecture=Architecture(width=16, heads=2)),
}


def untrained(run: Run) -> Model:
    """A model whose weights are all away from zero, so that every loop moves the state."""
    made = parts(run)
    engine = build_engine(run, made)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in engine.average.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return Model(run, engine, made)


def heldout(model: Model, items: int = 6):
    clean = model.dataset.heldout().select(slice(items))
    (batch,) = model.task.heldout(clean, model.spec, np.random.default_rng(0), 1)
    return batch


def with_prediction(values):
    return ExitOutput(np.asarray(values, float))


@pytest.mark.parametrize("task", RUNS)
def test_a_trace_holds_what_the_model_predicts_at_every_exit(task):
    model = untrained(RUNS[task])
    batch = heldout(model)
    found = trace(model, batch, (1, 2, 4))
    predictions = model.predict(batch.inputs, batch.labels, batch.log_snr, exits=(1, 2, 4))
    assert (len(found), found.loops, found.items) == (3, [1, 2, 4], 6)
    for output, prediction in zip(found.outputs, predictions, strict=True):
        rows = prediction[batch.weight > 0] if task == "masked" else prediction.reshape(-1, 1)
        np.testing.assert_allclose(output.prediction, rows, rtol=1e-5)


@pytest.mark.parametrize("task", RUNS)
def test_the_state_before_the_first_loop_leads_to_the_first_exit(task):
    """Read from the recurrence, whose states may carry a prefix token more than exits do."""
    model = untrained(RUNS[task])
    batch = heldout(model)
    found = trace(model, batch, (1, 2))
    uploaded = model.engine.upload(batch)
    first = model.engine.recurrence(uploaded)
    states = [first.initial, first.loop(first.initial, 1)]
    for state, expected in zip((found.initial, found.outputs[0].state), states, strict=True):
        tokens = expected[:, -16:]
        rows = tokens[torch.as_tensor(batch.weight > 0)] if task == "masked" else tokens.flatten(0, 1)
        np.testing.assert_allclose(state, rows, rtol=1e-4, atol=1e-5)


def test_a_trace_that_skips_loop_one_does_not_know_the_state_before_it():
    model = untrained(RUNS["masked"])
    assert trace(model, heldout(model), (2, 3)).initial is None


def test_a_universal_transformer_gives_its_ponder_time_too():
    run = replace(RUNS["masked"], trainer="universal-transformer")
    model = untrained(run)
    measured = measure(trace(model, heldout(model), (1, 3)))
    assert ((measured["ponder"] > 0) & (measured["ponder"] <= np.array([[2], [4]]))).all()
    model = untrained(RUNS["masked"])
    assert "ponder" not in measure(trace(model, heldout(model), (1, 3)))


def test_a_unique_depth_network_has_one_exit_with_its_own_confidence_and_no_disagreement():
    run = Run("unique-depth", "masked", "digits-codes")
    model = untrained(replace(run, architecture=replace(RUNS["masked"].architecture, max_loops=1)))
    measured = measure(trace(model, heldout(model), (1,)))
    assert np.isfinite(measured["entropy"]).all()
    assert np.isnan(measured["kl_to_previous"]).all()
    with pytest.raises(ValueError, match="ends at exit 1"):
        trace(model, heldout(model), (1, 2))


@pytest.mark.parametrize("task", RUNS)
@pytest.mark.parametrize("when", [1, 3])
def test_items_that_are_left_out_on_the_way_change_nothing_for_the_others(task, when):
    """As a batch is compacted when some of its samples stop."""
    model = untrained(RUNS[task])
    batch, kept = heldout(model), np.array([True, False, True, True, False, True])
    rest = batch.select(kept)
    begun = trace(model, batch, range(1, when + 1))
    measure(begun)  # so that much is computed before the others leave
    part, later = begun.select(kept), range(when + 1, 5)
    outputs = model.engine.predict(model.engine.upload(rest), later, ("prediction", "state"))
    for loops, output in zip(later, outputs, strict=True):
        part.append(loops, output)
    expected, measured = measure(trace(model, rest, range(1, 5))), measure(part)
    assert part.items == 4
    assert measured.keys() == expected.keys()
    for name, values in measured.items():
        np.testing.assert_allclose(values, expected[name], rtol=2e-3, atol=1e-5, err_msg=name)


def test_what_is_large_is_kept_for_two_exits_and_the_deepest_only():
    logits = np.random.default_rng(0).standard_normal((9, 2, 3, 4))
    found = Trace("tokens", hidden=np.ones((2, 3), bool))
    for exit in range(9):
        found.append(exit + 1, with_prediction(logits[exit]))
    measure(found)
    kept = [exit for name, exit in found._made if name == "distribution"]
    assert set(kept) <= {6, 7, 8}


def test_asking_in_any_order_gives_the_same():
    logits = np.random.default_rng(0).standard_normal((6, 2, 3, 4))
    found = Trace("tokens", hidden=np.ones((2, 3), bool))
    for exit in range(6):
        found.append(exit + 1, with_prediction(logits[exit]))
    forwards = [found.spread(exit).squares.copy() for exit in range(6)]
    backwards = [found.spread(exit).squares.copy() for exit in reversed(range(6))][::-1]
    np.testing.assert_allclose(backwards, forwards)


def test_impossible_traces_are_refused():
    with pytest.raises(ValueError, match="item 1 masks none"):
        Trace("tokens", hidden=np.array([[True, False], [False, False]]))
    found = Trace("tokens", hidden=np.ones((1, 2), bool))
    found.append(2, with_prediction(np.zeros((1, 2, 3))))
    with pytest.raises(ValueError, match="in the order of their loops, given 2 after 2"):
        found.append(2, with_prediction(np.zeros((1, 2, 3))))
