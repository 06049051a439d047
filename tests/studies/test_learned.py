"""A cell is judged only where the models that its claim compares have learned."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from synthetic_rows import frame, losses

from eltbench import studies
from eltbench.core.config import Architecture, Run
from eltbench.core.streams import stream
from eltbench.evaluation import heldout
from eltbench.evidence import verdicts
from eltbench.studies import deciding, learned
from eltbench.studies.presets import Arm, Preset, World, presets_of
from eltbench.tasks import create
from eltbench.tasks.base import ExitOutput, NumpyOps
from eltbench.training.loop import build_engine, parts
from eltbench.training.model import Model

STUDY = studies.create("extrapolation")
DIGITS = Preset("made-up", worlds=(World("diffusion", "digits"),), arms=(Arm("elt"), Arm("no-ilsd")))
WORLDS = [
    ("diffusion", "digits", {}),
    ("masked", "digits-codes", {}),
    ("masked", "digits-levels", {}),
    ("masked", "latin", {}),
    ("masked", "relay", {"colours": 24, "gates": 24}),
]


def best(task="diffusion", dataset="digits", **options) -> float:
    run = Run("elt", task, dataset, dataset_options=tuple(options.items()))
    return min(one.loss for one in heldout.trivial(parts(run), dataset, 4))


def decided(rows, presets, study=STUDY, **settings):
    found = deciding.decide_all(study, frame(rows), presets=presets, **{"smoke": False, **settings})
    return {each.claim.id: each for each in found}


def curves(trainer="elt", at_max=0.03, seeds=(0, 1, 2), worse=(1.001, 1.002, 1.0)):
    return [
        row
        for seed, half in zip(seeds, worse, strict=True)
        for row in losses({2: half * at_max, 4: at_max, 6: at_max, 12: 2 * half * at_max}, trainer=trainer, seed=seed)
    ]


def test_models_that_do_no_better_than_a_trivial_predictor_get_no_verdict():
    """Twenty steps with an average that keeps the first weights: elastic by +0.1 %, and nothing was learned."""
    untrained = decided(curves(at_max=0.7), [DIGITS])
    assert decided(curves(at_max=0.7), None)["elastic"].verdict == "supported"
    assert untrained["elastic"].verdict == untrained["over-iteration"].verdict == "inconclusive"
    assert untrained["elastic"].reason.startswith("half: not trained: 3 of 3 runs end above a held-out loss of 0.16")
    assert "trivial predictor 'copy'" in untrained["elastic"].reason
    assert "elt 2N×4L of seed 2 at 0.7" in untrained["elastic"].reason
    told = verdicts.withheld(list(untrained.values()))  # what the command says below its table
    assert told[0].startswith("elastic in diffusion digits torch: not trained: 3 of 3 runs")
    assert verdicts.withheld([decided(curves(), [DIGITS])["elastic"]]) == []
    (cell,) = untrained["elastic"].cells
    assert cell.conditions[0].primary.interval.estimate == pytest.approx(0.001, rel=0.01)  # the effect is still shown
    assert decided(curves(), [DIGITS])["elastic"].verdict == "supported"


def test_one_run_that_has_not_learned_is_enough_and_is_named():
    rows = curves() + curves(at_max=0.5, seeds=[7], worse=[1.0])
    assert "not trained: 1 of 4 runs" in decided(rows, [DIGITS])["elastic"].reason
    assert "of seed 7 at 0.5" in decided(rows, [DIGITS])["elastic"].reason


def test_only_the_models_that_a_claim_compares_must_have_learned():
    rows = curves(worse=(1.001, 1.002, 0.999)) + curves("no-ilsd", at_max=0.7, worse=(3.0, 3.1, 2.9))
    found = decided(rows, [DIGITS])
    assert found["elastic"].verdict == "supported"
    assert "not trained" in found["vanilla-parity"].reason
    assert "not trained" in found["vanilla-collapse"].reason


@pytest.mark.parametrize("share", [0.89, 0.91])
def test_the_share_below_the_trivial_predictor_is_the_stated_one(share):
    assert learned.LEARNED == 0.1
    assert ("not trained" in decided(curves(at_max=share * best()), [DIGITS])["elastic"].reason) == (share > 0.9)


def test_a_world_that_no_preset_names_is_not_taken_for_a_trained_one():
    other = replace(DIGITS, worlds=(World("masked", "relay"),))
    assert "no preset of these rows says how their world was made" in decided(curves(), [other])["elastic"].reason
    gone = replace(DIGITS, worlds=(World("diffusion", "digits", dataset_options={"unheard": 1}),))
    assert "its world cannot be made here: unknown" in decided(curves(), [gone])["elastic"].reason


def test_worlds_that_differ_in_their_options_have_floors_of_their_own():
    study = studies.create("depth_grid")
    worlds = tuple(World("masked", "relay", dataset_options=options) for options in ({}, {"colours": 24, "gates": 24}))
    preset = Preset("x", worlds=worlds, arms=(Arm("elt", architecture={"block": "bert"}),))
    rows = [
        row
        for world in ("relay", "relay colours=24 gates=24")
        for seed in range(3)
        for layers, loops in ((1, 8), (4, 2))
        for row in losses(
            {loops: 1.2 + 0.1 * seed / layers},
            task="masked",
            dataset="relay",
            world=world,
            seed=seed,
            unique_layers=layers,
            max_loops=loops,
        )
    ]
    table = frame(rows, study.columns)
    found = deciding.decide_all(study, table, presets=[preset], smoke=False)
    (small,) = (each for each in found if each.claim.id == "small-n")
    few, many = small.cells
    assert "not trained" in few.reason  # 1.2 to 1.4 of ln 4
    assert "not trained" not in many.reason  # of ln 24


def test_a_task_that_names_no_trivial_predictor_is_judged_as_it_is(monkeypatch):
    monkeypatch.setattr("eltbench.tasks.diffusion.Diffusion.trivial", lambda self, training, spec: {})
    learned._floors.cache_clear()
    assert decided(curves(at_max=0.7), [DIGITS])["elastic"].verdict == "supported"
    learned._floors.cache_clear()


def test_the_presets_of_a_provenance_are_read_and_those_of_another_kind_left_out():
    commands = json.loads(json.dumps([{"presets": [DIGITS.to_dict(), {"groups": 3}]}]))
    assert presets_of(commands) == [DIGITS]
    assert presets_of([{"presets": [DIGITS.to_dict()]}]) == [DIGITS]


# The trivial predictors


@pytest.mark.parametrize(("task", "dataset", "options"), WORLDS, ids=lambda it: str(it))
def test_a_trivial_loss_is_that_of_a_network_which_predicts_so(task, dataset, options):
    """`heldout.evaluate` of an engine that says what the predictor says, on the very corruptions of every model."""
    shape = Architecture(unique_layers=1, max_loops=1, width=16, heads=2)
    run = Run("unique-depth", task, dataset, architecture=shape, dataset_options=tuple(options.items()))
    made = parts(run)
    predictors = made.task.trivial(made.dataset.training(), made.dataset.spec)
    found = {one.name: one for one in heldout.trivial(made, dataset, 2)}
    assert found.keys() == predictors.keys()
    assert len(predictors) >= 2
    engine = build_engine(run, made)
    for name, predictor in predictors.items():
        engine.predict = lambda batch, exits, its=predictor: [
            ExitOutput(
                engine.ops.asarray(np.array(its(type(batch)(*(None if f is None else f.numpy() for f in batch)))))
            )
        ]
        (loss,) = heldout.evaluate(Model(run, engine, made), (1,), 2).losses
        assert found[name].loss == pytest.approx(loss, rel=1e-4)


def test_predictors_know_the_training_items_but_not_the_masked_ones():
    codes = parts(Run("elt", "masked", "digits-codes")).dataset
    predictors = create("masked").trivial(codes.training(), codes.spec)
    (batch,) = create("masked").heldout(codes.heldout(), codes.spec, stream("x", 0, "x"), 1)
    hidden = batch._replace(target=np.zeros_like(batch.target))
    for predictor in predictors.values():
        assert np.array_equal(predictor(batch), predictor(hidden))
    loss = {name: create("masked").loss(ExitOutput(of(batch)), batch, NumpyOps()) for name, of in predictors.items()}
    assert loss["uniform"] == pytest.approx(np.log(64), rel=1e-5)
    assert loss["unigram by position"] < loss["unigram"] < loss["uniform"]


def test_the_mean_item_is_best_where_nothing_is_seen_and_the_copy_where_all_is():
    task, digits = create("diffusion"), parts(Run("elt", "diffusion", "digits")).dataset
    predictors = task.trivial(digits.training(), digits.spec)
    clean = digits.heldout()
    for time, first, second in ((1e-3, "copy", "mean item"), (0.999, "mean item", "copy")):
        batch = task._at(clean, digits.spec, np.full(len(clean.labels), time), clean.labels, np.random.default_rng(0))
        better, worse = (((np.asarray(predictors[name](batch)) - batch.target) ** 2).mean() for name in (first, second))
        assert better < 0.5 * worse
