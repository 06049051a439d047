"""Exact solving: shares known by construction, one wrong cell is enough, and sampling fills what is hidden."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from two_backends import small_run

from eltbench.evaluation import solving
from eltbench.tasks.base import ExitOutput
from eltbench.training.loop import build_engine, parts
from eltbench.training.model import Model

MAZE = {"rooms": 3, "frame": 4, "longest": 4, "furthest": 6, "heldout_items": 40}
SUDOKU = {"size": 4, "puzzles": 64, "hardest": 2, "heldout_items": 24}
EXITS = (1, 2, 3, 4)


def model_of(dataset: str) -> Model:
    options = {"maze": MAZE, "sudoku": SUDOKU}.get(dataset, {})
    run = replace(small_run("elt", "masked", dataset, block="bert"), dataset_options=tuple(options.items()))
    made = parts(run)
    return Model(run, build_engine(run, made), made)


class Solver:
    """In place of a network: at exit r it names every hidden cell of the items that `knows` says, else none but one."""

    def __init__(self, model: Model, knows) -> None:
        self.model, self.knows = model, knows

    def __call__(self, batch, exits, fields=("prediction",)):
        engine, outputs = self.model.engine, []
        target, hidden = engine.numpy(batch.target), engine.numpy(batch.weight) > 0
        for exit_ in exits:
            named = target.copy()
            for item in np.flatnonzero(~self.knows(exit_, target, hidden)):
                cell = np.flatnonzero(hidden[item])[0]
                named[item, cell] = (named[item, cell] + 1) % self.model.spec.vocabulary
            logits = np.eye(self.model.spec.vocabulary, dtype=np.float32)[named] * 50
            outputs.append(output(engine, logits))
        return outputs


def output(engine, logits) -> ExitOutput:
    return ExitOutput(engine.ops.asarray(logits))


def share(rows, metric="solved", **known) -> float:
    (row,) = [row for row in rows if row["metric"] == metric and all(row.get(k) == v for k, v in known.items())]
    return row["value"]


def test_an_item_is_solved_where_every_hidden_cell_is_right_and_the_seen_ones_do_not_count(monkeypatch):
    model = model_of("maze")
    clean = model.dataset.heldout()
    length = model.dataset.difficulty(clean)
    lengths = {row.tobytes(): hard for row, hard in zip(clean.values, length, strict=True)}

    def knows(exit_, target, hidden):
        return np.array([lengths.get(row.tobytes(), 99) <= 2 * exit_ for row in target])

    monkeypatch.setattr(model.engine, "predict", Solver(model, knows))
    right = solving.solved(model, clean, EXITS)
    assert np.array_equal(right, length <= 2 * np.array(EXITS)[:, None])
    rows = solving.rows(model, EXITS)
    for exit_ in EXITS:
        assert share(rows, loops=exit_, stratum=None) == np.mean(length <= 2 * exit_)
        assert share(rows, loops=exit_, stratum=solving.AS_TRAINED) == np.mean(length[length <= 4] <= 2 * exit_)
        assert share(rows, loops=exit_, stratum=solving.HARDER) == np.mean(length[length > 4] <= 2 * exit_)
        assert share(rows, loops=exit_, stratum="difficulty 3") == float(exit_ >= 2)
        assert share(rows, loops=exit_, stratum=solving.LARGER) < 1
    assert share(rows, "first_exit_by_difficulty") > 0.9
    firsts = solving.first_exits(right, EXITS)
    assert np.array_equal(firsts, np.ceil(length / 2))


@pytest.mark.parametrize("dataset", ["maze", "sudoku", "group", "latin"])
def test_what_is_solved_is_what_the_predictions_of_the_model_say_item_by_item(dataset):
    model = model_of(dataset)
    clean = model.dataset.heldout()
    clean = clean.select(slice(16)) if dataset != "latin" else clean
    right = solving.solved(model, clean, (1, 3))
    if dataset == "latin":  # whose cells the task masks
        assert right.shape == (2, len(clean.labels))
        return
    inputs = np.where(clean.hidden, model.spec.vocabulary, clean.values)
    context = clean.context
    for place, logits in enumerate(model.predict(inputs, clean.labels, context=context, exits=(1, 3))):
        named = logits.argmax(-1)
        expected = [all(named[i][clean.hidden[i]] == clean.values[i][clean.hidden[i]]) for i in range(len(named))]
        assert right[place].tolist() == expected


@pytest.mark.parametrize("steps", [1, 3])
def test_sampling_fills_items_that_hide_different_numbers_of_cells(monkeypatch, steps):
    model = model_of("sudoku")
    clean = model.dataset.heldout()
    assert np.ptp(clean.hidden.sum(axis=1)) > 0
    known = {row.tobytes() for row in clean.values[::2]}

    class Fills:
        def __call__(self, batch, exits, fields=("prediction",)):
            seen = model.engine.numpy(batch.inputs)
            named = []
            for row in seen:  # the puzzle whose clues these are
                agrees = ((clean.values == row) | (row == model.spec.vocabulary)).all(axis=1)
                values = clean.values[agrees.argmax()]
                named.append(values if values.tobytes() in known else (values + 1) % model.spec.vocabulary)
            logits = np.eye(model.spec.vocabulary, dtype=np.float32)[np.stack(named)] * 1e4
            return [output(model.engine, logits)] * len(exits)

    monkeypatch.setattr(model.engine, "predict", Fills())
    sampling = {"steps": steps, "temperature": 1e-3, "temperature_slope": 0.0, "choice_temperature": 0.0}
    right = solving.solved_by_sampling(model, clean, 2, **sampling)
    assert right.tolist() == [row.tobytes() in known for row in clean.values]
    rows = solving.rows(model, EXITS, (2,), sampling) if steps == 1 else []
    if rows:
        found = next(row for row in rows if row["metric"] == "solved_by_sampling" and row["stratum"] is None)
        assert (found["value"], found["sampling_steps"], found["sampler"]) == (right.mean(), 1, "maskgit")


def test_too_few_solved_items_give_no_correlation_but_a_reason(monkeypatch):
    model = model_of("maze")
    monkeypatch.setattr(model.engine, "predict", Solver(model, lambda e, target, hidden: np.zeros(len(target), bool)))
    (row,) = [row for row in solving.rows(model, EXITS) if row["metric"] == "first_exit_by_difficulty"]
    assert row["value"] is None
    assert "0 items are solved" in row["reason"]


def test_a_world_without_puzzles_is_refused():
    model = model_of("digits-codes")
    with pytest.raises(ValueError, match="'digits-codes' holds no puzzles"):
        solving.solved(model, model.dataset.heldout(), (1,))
    latin = model_of("latin")
    with pytest.raises(ValueError, match="do not say what they hide"):
        solving.solved_by_sampling(latin, latin.dataset.heldout(), 1)
