from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from eltbench.cli import main as cli
from eltbench.core.config import Architecture, Optimisation, Run
from eltbench.evaluation.stopping.anytime import anytime
from eltbench.execution.store import RunStore
from eltbench.training import model as models
from eltbench.training.identity import run_id
from eltbench.training.loop import build_engine, fit, parts
from eltbench.training.model import Model, load_model, runs_root
from eltbench.training.record import WEIGHTS

SMALL = Architecture(unique_layers=1, max_loops=3, width=16, heads=2)
OPTIMISATION = Optimisation(steps=3, batch_size=8, learning_rate=1e-2, warmup_steps=1)
RUNS = {
    "diffusion": Run("elt", "diffusion", "digits", architecture=SMALL, optimisation=OPTIMISATION),
    "masked": Run(
        "elt", "masked", "digits-codes", architecture=replace(SMALL, block="bert"), optimisation=OPTIMISATION
    ),
    "relay": Run("elt", "masked", "relay", architecture=replace(SMALL, block="bert"), optimisation=OPTIMISATION),
    "unique": Run(
        "unique-depth",
        "diffusion",
        "digits",
        architecture=replace(SMALL, unique_layers=2, max_loops=1),
        optimisation=OPTIMISATION,
    ),
    "universal": Run("universal-transformer", "diffusion", "digits", architecture=SMALL, optimisation=OPTIMISATION),
}
LABELS = np.arange(6)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A folder of trained runs, each under its id."""
    root = tmp_path_factory.mktemp("runs")
    for run in RUNS.values():
        fit(run, root / run_id(run))
    return root


@pytest.fixture
def model(store, request) -> Model:
    return load_model(run_id(RUNS[getattr(request, "param", "diffusion")]), runs=store)


every_looped_model = pytest.mark.parametrize("model", ["diffusion", "masked", "universal"], indirect=True)


def record_calls(model: Model, monkeypatch) -> list[tuple]:
    """The (batch, exits, predictions) of every call that sampling makes."""
    calls, predict = [], model.engine.predict

    def recording(batch, exits, *args):
        outputs = predict(batch, exits, *args)
        calls.append((batch, exits, [model.engine.numpy(output.prediction) for output in outputs]))
        return outputs

    monkeypatch.setattr(model.engine, "predict", recording)
    return calls


# Predictions


@pytest.mark.slow
@every_looped_model
def test_predictions_at_any_exits_are_those_that_sampling_uses(model, monkeypatch):
    calls = record_calls(model, monkeypatch)
    model.sample(LABELS, loops=5, steps=3, guidance_scale=2.0)
    sampling = list(calls)
    assert len(sampling) == 3
    for batch, exits, (used,) in sampling:
        assert exits == (5,)
        inputs, labels = model.engine.numpy(batch.inputs), model.engine.numpy(batch.labels)
        log_snr = None if batch.log_snr is None else model.engine.numpy(batch.log_snr)
        *_, asked = model.predict(inputs, labels, log_snr, exits=(1, 2, 5))
        assert np.allclose(asked, used, rtol=0, atol=1e-5)


def test_an_exit_does_not_depend_on_which_others_are_asked(model):
    inputs = np.random.default_rng(0).normal(size=(2, 8, 8, 1))
    together = model.predict(inputs, [3, 4], 0.0, exits=(1, 3, 9))
    for exit, prediction in zip((1, 3, 9), together, strict=True):
        assert np.allclose(model.predict(inputs, [3, 4], 0.0, exits=(exit,))[0], prediction, rtol=0, atol=1e-6)
    assert not np.allclose(together[0], together[2], rtol=0, atol=1e-6)


@pytest.mark.parametrize("model", ["diffusion"], indirect=True)
def test_predictions_have_the_shape_of_the_data_and_one_level_serves_all_items(model):
    inputs = np.zeros((4, 8, 8, 1))  # double precision is accepted
    (one,) = model.predict(inputs, log_snr=0.5, exits=(2,))
    (each,) = model.predict(inputs, np.full(4, 10), np.full(4, 0.5), exits=(2,))
    assert one.shape == (4, 8, 8, 1)
    assert one.dtype == np.float32
    assert np.array_equal(one, each)  # the null label is the default


@pytest.mark.parametrize("model", ["masked"], indirect=True)
def test_masked_predictions_are_logits_over_the_vocabulary(model):
    (logits,) = model.predict(np.full((2, 16), 64, np.int64), exits=(1,))
    assert logits.shape == (2, 16, 64)


def test_what_a_prediction_needs_is_asked_for(store):
    with pytest.raises(ValueError, match="log_snr"):
        load_model(run_id(RUNS["diffusion"]), runs=store).predict(np.zeros((1, 8, 8, 1)), exits=(1,))
    with pytest.raises(ValueError, match="context"):
        load_model(run_id(RUNS["relay"]), runs=store).predict(np.zeros((1, 16)), exits=(1,))


@pytest.mark.parametrize("exits", [(), (0,), (2, 2), (3, 1), (-1, 2)])
def test_impossible_exits_are_refused_with_what_was_given(model, exits):
    with pytest.raises(ValueError, match=r"^exits: "):
        model.predict(np.zeros((1, 8, 8, 1)), log_snr=0.0, exits=exits)


@pytest.mark.parametrize("model", ["unique"], indirect=True)
def test_exits_beyond_a_unique_depth_network_are_refused(model):
    assert len(model.predict(np.zeros((1, 8, 8, 1)), log_snr=0.0, exits=(1,))) == 1
    with pytest.raises(ValueError, match=r"ends at exit 1, given \[1, 2\]"):
        model.predict(np.zeros((1, 8, 8, 1)), log_snr=0.0, exits=(1, 2))
    with pytest.raises(ValueError, match="ends at exit 1"):
        model.sample(LABELS, loops=2)


# Samples


@every_looped_model
@pytest.mark.parametrize("loops", [1, 3, 8])
def test_samples_can_be_drawn_at_any_loop_count_also_beyond_training(model, loops):
    sample = model.sample(LABELS, loops=loops, steps=2)
    images = model.dataset.images(sample)
    assert images.shape == (6, 8, 8, 1)
    assert np.isfinite(images).all()
    assert np.abs(images).max() <= 1
    if model.spec.kind == "tokens":
        assert 0 <= sample.min() <= sample.max() < model.spec.vocabulary


@every_looped_model
def test_one_seed_draws_one_sample_and_another_seed_another(model):
    first, again, other = (model.sample(LABELS, loops=2, steps=3, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_one_seed_starts_from_the_same_noise_at_every_loop_count(model, monkeypatch):
    calls = record_calls(model, monkeypatch)
    for loops in (1, 6):
        model.sample(LABELS, loops=loops, steps=1, seed=4)
    (shallow, *_), (deep, *_) = calls
    assert np.array_equal(shallow.inputs, deep.inputs)


@pytest.mark.parametrize("model", ["relay"], indirect=True)
def test_a_sample_keeps_what_the_world_reveals(model):
    given = model.dataset.heldout().select(slice(5))
    sample = model.sample(given.labels, loops=2, steps=4, given=given)
    assert np.array_equal(sample[~given.hidden], given.values[~given.hidden])
    assert sample.max() < model.spec.vocabulary


def test_a_trajectory_ends_with_the_sample_and_takes_new_loops_between_its_steps(model, monkeypatch):
    states = list(model.trajectory(LABELS, 2, steps=4))
    assert len(states) == 4
    assert np.array_equal(states[-1], model.sample(LABELS, loops=2, steps=4))
    calls = record_calls(model, monkeypatch)
    steering = model.trajectory(LABELS, 2, steps=4)
    assert np.array_equal(next(steering), states[0])
    steering.send(5)
    list(steering)
    assert [exits for _, exits, _ in calls] == [(2,), (5,), (5,), (5,)]


def test_impossible_samples_are_refused_before_the_first_step(model):
    for loops, settings, message in (
        (0, {}, "at least 1"),
        (2, {"steps": 0}, "steps must be at least 1"),
        (2, {"samplr": "ddpm"}, "did you mean 'sampler'"),
    ):
        with pytest.raises(ValueError, match=message):
            model.trajectory(LABELS, loops, **settings)


# Loading


def test_a_model_is_found_by_its_id_by_a_beginning_of_it_and_by_its_folder(store):
    run = RUNS["diffusion"]
    for name in (run_id(run), run_id(run)[:8], store / run_id(run), str(store / run_id(run))):
        found = load_model(name, runs=store)
        assert found.run == run
        assert found.run_id == run_id(run)


def test_loading_a_model_leaves_the_process_as_it_was(store):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    try:
        for run in RUNS.values():
            load_model(run_id(run), runs=store)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == states


def test_training_keeps_to_the_threads_of_its_run_and_gives_them_back(tmp_path, monkeypatch):
    run, seen, threads = RUNS["diffusion"], [], torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        fit(run, tmp_path, lambda *done: seen.append(torch.get_num_threads()))
        assert (set(seen), torch.get_num_threads()) == ({run.threads}, 2)
    finally:
        torch.set_num_threads(threads)


def test_a_loaded_model_predicts_as_the_trained_engine_does(store, tmp_path):
    run = RUNS["diffusion"]
    trained = Model(run, fit(run, tmp_path), parts(run))
    loaded = load_model(run_id(run), runs=store)
    assert np.array_equal(trained.sample(LABELS, loops=4, steps=2), loaded.sample(LABELS, loops=4, steps=2))
    untrained = Model(run, build_engine(run), parts(run))
    assert not np.array_equal(untrained.sample(LABELS, loops=4, steps=2), loaded.sample(LABELS, loops=4, steps=2))


def test_the_run_keeps_its_identity_wherever_it_is_loaded(store, tmp_path):
    elsewhere = replace(RUNS["diffusion"], device="cuda:0")
    shutil.copytree(store / run_id(RUNS["diffusion"]), tmp_path / "moved")
    description = tmp_path / "moved" / "checkpoint.json"
    description.write_text(description.read_text().replace('"device": "cpu"', '"device": "cuda:0"'))
    model = load_model(tmp_path / "moved", device="cpu")
    assert model.run == elsewhere
    assert model.run_id == run_id(elsewhere)
    assert np.isfinite(model.sample(LABELS, loops=1, steps=1)).all()


def test_unknown_and_ambiguous_names_are_refused_with_where_was_looked(store):
    with pytest.raises(ValueError, match=f"no trained run named 'zzz' in {store}"):
        load_model("zzz", runs=store)
    with pytest.raises(ValueError, match=f"{len(RUNS)} runs named '' in"):
        load_model("", runs=store)


@pytest.mark.parametrize("name", [WEIGHTS, "checkpoint.json"])
@pytest.mark.parametrize("damage", ["truncated", "foreign"])
def test_a_damaged_run_is_refused_by_the_name_of_its_file(store, tmp_path, name, damage):
    shutil.copytree(store / run_id(RUNS["diffusion"]), tmp_path / "run")
    path = tmp_path / "run" / name
    path.write_bytes(path.read_bytes()[:-50] if damage == "truncated" else b"[]")
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        load_model(tmp_path / "run")


def test_a_run_without_its_description_is_refused(store, tmp_path):
    shutil.copytree(store / run_id(RUNS["diffusion"]), tmp_path / "run")
    (tmp_path / "run" / "checkpoint.json").unlink()
    with pytest.raises(ValueError, match=r"checkpoint.json is damaged"):
        load_model(tmp_path / "run")


def test_runs_lie_where_they_are_said_to_or_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("ELTBENCH_RUNS", str(tmp_path / "named"))
    assert runs_root(tmp_path / "given") == tmp_path / "given"
    assert runs_root() == tmp_path / "named"
    monkeypatch.delenv("ELTBENCH_RUNS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert runs_root() == tmp_path / "eltbench" / "runs"


# What is asked has the form of the data


ASKED = {"inputs": np.zeros((4, 8, 8, 1), np.float32), "labels": np.arange(4), "log_snr": 0.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": [1, 2, 3, 11]}, r"labels must be 0\.\.10 \(10 classes, then the null label\), given 1\.\.11"),
        ({"labels": [0, 0, 0, 2**32]}, r"given 0\.\.4294967296"),
        ({"labels": [0, 0, 0, -1]}, r"given -1\.\.0"),
        ({"labels": [0, 0, 0, 0.9]}, r"must be whole numbers, given 0\.9"),
        ({"labels": np.zeros((4, 1), int)}, r"labels: expected shape \(4,\), given \(4, 1\)"),
        ({"labels": np.zeros(16, int)}, r"labels: expected shape \(4,\), given \(16,\)"),
        ({"inputs": np.zeros((4, 8, 8, 1), np.uint8)}, "inputs: expected floating values.*given uint8"),
        ({"inputs": np.full((4, 8, 8, 1), np.nan)}, "256 of 256 values are not finite"),
        ({"inputs": np.full((4, 8, 8, 1), 1e300)}, "256 of 256 values are not finite"),
        ({"inputs": np.zeros((4, 8, 9, 1))}, r"expected shape \(4, 8, 8, 1\), given \(4, 8, 9, 1\)"),
        ({"inputs": np.zeros((4, 64))}, r"expected shape \(4, 8, 8, 1\)"),
        ({"inputs": np.zeros((0, 8, 8, 1))}, "one item or more"),
        ({"log_snr": np.nan}, "1 of 1 values are not finite"),
        ({"log_snr": [0.0, 0.0, np.inf, 0.0]}, "1 of 4 values are not finite"),
        ({"log_snr": [0.0]}, r"log_snr: expected shape \(4,\), given \(1,\)"),
        ({"log_snr": np.zeros((4, 1))}, r"log_snr: expected shape \(4,\), given \(4, 1\)"),
        ({"context": np.zeros((4, 16), int)}, "no context tokens"),
    ],
)
def test_arrays_that_have_not_the_form_of_the_data_are_refused(model, changes, message):
    for ask in (model.predict, partial(anytime, model)):
        with pytest.raises(ValueError, match=f"^predict: .*{message}"):
            ask(**{**ASKED, **changes}, exits=(1,))


@pytest.mark.parametrize("model", ["masked"], indirect=True)
@pytest.mark.parametrize("token", [-1, 65, 2**32, 0.5])
def test_tokens_beyond_the_vocabulary_and_its_mask_are_refused(model, token):
    with pytest.raises(ValueError, match=r"^predict: inputs must be"):
        model.predict(np.full((1, 16), token), exits=(1,))


@every_looped_model
@pytest.mark.parametrize("labels", [[12], [-1], [0.5], [2**32], [[0]], [], 0])
def test_samples_of_labels_that_are_no_class_are_refused(model, labels):
    with pytest.raises(ValueError, match=r"^sample: labels"):
        model.sample(labels, loops=1, steps=1)


def test_guidance_takes_a_model_that_saw_labels_and_none(store):
    relay = load_model(run_id(RUNS["relay"]), runs=store)
    given = relay.dataset.heldout().select(slice(2))
    never = replace(RUNS["diffusion"], optimisation=replace(OPTIMISATION, label_dropout=0.0))
    for model, known in ((relay, {"given": given}), (Model(never, build_engine(never), parts(never)), {})):
        with pytest.raises(ValueError, match=r"guidance_scale is 2, which takes a model that was trained with and"):
            model.sample([0, 0], loops=1, steps=1, guidance_scale=2.0, **known)
        assert len(model.sample([0, 0], loops=1, steps=1, **known)) == 2


def test_a_world_with_context_is_not_sampled_without(store):
    relay = load_model(run_id(RUNS["relay"]), runs=store)
    given = relay.dataset.heldout().select(slice(3))
    with pytest.raises(ValueError, match=r"^sample: this world needs context"):
        relay.sample(given.labels, loops=1)
    with pytest.raises(ValueError, match=r"^sample: given: values: expected shape \(2, 16\), given \(3, 16\)"):
        relay.sample(given.labels[:2], loops=1, given=given)


@pytest.mark.parametrize("exits", [(2.9,), "12", 4, (True,), (1, 2.0), None, (np.nan,)])
def test_exits_are_a_list_of_whole_numbers(model, exits):
    with pytest.raises(ValueError, match=r"^exits: give loop counts such as \(1, 2, 4\), given"):
        model.predict(np.zeros((1, 8, 8, 1)), log_snr=0.0, exits=exits)


def test_exits_may_be_an_array(model):
    assert len(model.predict(np.zeros((1, 8, 8, 1)), log_snr=0.0, exits=np.arange(1, 3))) == 2


@pytest.mark.parametrize("passes", [True, 1.5])
def test_passes_with_dropout_are_a_whole_number(model, passes):
    with pytest.raises(ValueError, match="dropout_passes must be 0 or more"):
        model.predict(np.zeros((1, 8, 8, 1)), log_snr=0.0, exits=(1,), dropout_passes=passes)


# Files from strangers


@pytest.fixture
def copied(store, tmp_path):
    """The folder of a trained run with its record, to be changed."""
    run, directory = RUNS["diffusion"], tmp_path / run_id(RUNS["diffusion"])
    shutil.copytree(store / directory.name, directory)
    RunStore(tmp_path).finish(run, directory.name, seconds=1.0, resumed=False)
    return directory


def altered(directory, name, **tensors):
    path = directory / name
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    save_file({**load_file(path), **tensors}, path, metadata=metadata)


@pytest.mark.parametrize("name", [WEIGHTS, "checkpoint.json"])
def test_a_file_that_is_not_the_one_of_the_record_is_refused(copied, name):
    load_model(copied)
    data = bytearray((copied / name).read_bytes())
    place = data.rindex(b"0") if name.endswith("json") else -1
    data[place] ^= 1
    (copied / name).write_bytes(data)
    with pytest.raises(ValueError, match=f"{name} is not the file that was written; eltbench runs verify --repair"):
        load_model(copied)


def test_a_record_of_another_form_is_refused(copied):
    (copied / "done.json").write_text("[" * 9000)
    with pytest.raises(ValueError, match=r"done.json is unreadable: nested deeper than 64 levels"):
        load_model(copied)


def test_weights_that_no_training_writes_are_refused_also_without_a_record(copied):
    (copied / "done.json").unlink()
    name = next(name for name in load_file(copied / WEIGHTS) if name.startswith("average."))
    shape = load_file(copied / WEIGHTS)[name].shape
    altered(copied, WEIGHTS, **{name: np.full(shape, np.inf, np.float32)})
    with pytest.raises(ValueError, match=f"{name} holds values that are not finite"):
        load_model(copied)


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize(
    "changes",
    [
        {"unique_layers": 1024},
        {"width": 65_536},
        {"mlp_ratio": 256},
        {"max_loops": 1024, "loop_adapter_rank": 8},
    ],
)
def test_a_network_that_its_file_cannot_hold_is_refused_before_it_is_built(copied, monkeypatch, changes, recorded):
    description = json.loads((copied / "checkpoint.json").read_text())
    description["run"]["architecture"] |= changes
    (copied / "checkpoint.json").write_text(json.dumps(description))
    if recorded:
        RunStore(copied.parent).finish(RUNS["diffusion"], copied.name, seconds=1.0, resumed=False)
    else:
        (copied / "done.json").unlink()
    monkeypatch.setattr(models, "build_engine", lambda *arguments: pytest.fail("it was built"))
    with pytest.raises(ValueError, match=r"does not fit this network: its configuration asks for \d+ bytes of values"):
        load_model(copied)


def test_snapshots_that_a_configuration_only_names_take_no_memory(copied):
    (copied / "done.json").unlink()
    description = json.loads((copied / "checkpoint.json").read_text())
    description["run"]["optimisation"] |= {"steps": 10**15, "snapshot_every": 1}
    (copied / "checkpoint.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match="snapshot_every 1 would keep 999999999999999 snapshots, at most 10000"):
        load_model(copied)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 9000,
        '{"run": 3}',
        "[]",
        '{"run": {"trainer": "elt", "task": "diffusion", "dataset": "digits", "seed": NaN}}',
        '{"run": {"trainer": "elt", "task": "diffusion", "dataset": "digits", "architecture": 3}}',
        '{"run": {"trainer": "elt", "task": "diffusion", "dataset": "digits", "task_options": 3}}',
        json.dumps({"run": {**RUNS["diffusion"].to_dict(), "optimisation": {"learning_rate": 10**400}}}),
    ],
)
def test_an_odd_description_is_refused(copied, text):
    (copied / "done.json").unlink()
    (copied / "checkpoint.json").write_text(text)
    with pytest.raises(ValueError, match=r"checkpoint.json is damaged or not eltbench's"):
        load_model(copied)


def test_what_the_system_refuses_to_read_is_a_message_of_the_command(copied, monkeypatch, capsys):
    opened = Path.open

    def refuse(path, *arguments, **named):
        if path.name == WEIGHTS:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **named)

    monkeypatch.setattr(Path, "open", refuse)
    assert cli.main(["sample", str(copied), "--out", str(copied / "picture.png")]) == 2
    assert "error: [Errno 13] Permission denied" in capsys.readouterr().err
